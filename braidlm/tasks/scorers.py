"""How a given answer is scored against the accepted ones: pure functions from texts to 0 .. 1.

Each takes the continuation that the model gave, cut at its stop, and the accepted answers.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

Scorer = Callable[[str, Sequence[str]], float]

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def contains(said: str, answers: Sequence[str]) -> float:
    """Return 1 if any answer stands somewhere in what was said, in whatever case.

    Source: Arora et al. 2024 (arXiv 2402.18668) for FDA, SWDE and SQuAD completion; the case is
        ignored as Python's `re` ignores it, which lm-evaluation-harness does too.
    """
    return float(any(re.search(re.escape(answer), said, re.IGNORECASE) for answer in answers))


def exact(said: str, answers: Sequence[str]) -> float:
    """Return 1 if what was said is an answer, character by character, but for spaces around it."""
    return float(said.strip() in {answer.strip() for answer in answers})


def begins(said: str, answers: Sequence[str]) -> float:
    """Return 1 if what was said begins with an answer, in whole words and in the same case."""
    text = said.lstrip()
    return float(any(re.match(rf"{re.escape(answer)}(?!\w)", text) for answer in answers))


def squad_em(said: str, answers: Sequence[str]) -> float:
    """Return 1 if both are equal without case, punctuation, articles and extra spaces.

    Source: Rajpurkar et al. 2016 (arXiv 1606.05250), the official script.
    """
    return float(any(_plain(said) == _plain(answer) for answer in answers))


def squad_f1(said: str, answers: Sequence[str]) -> float:
    """Return the best F1 of words in common with an answer, after the same normalisation.

    Where either side has no word left both must have none. Source: as `squad_em`; Rajpurkar et
    al. 2018 (arXiv 1806.03822) for empty sides.
    """
    return max((_f1(_plain(said).split(), _plain(a).split()) for a in answers), default=0.0)


def best_subspan_em(said: str, answers: Sequence[str]) -> float:
    """Return 1 if any answer stands in what was said, both normalised as for `squad_em`.

    Source: Liu et al. 2023 (arXiv 2307.03172), nelson-liu/lost-in-the-middle `metrics.py`.
    """
    return float(any(_plain(answer) in _plain(said) for answer in answers))


def string_match_all(said: str, answers: Sequence[str]) -> float:
    """Return the share of the answers that stand in what was said, in whatever case.

    Source: Hsieh et al. 2024 (arXiv 2404.06654), RULER, for all its tasks but questions.
    """
    lower = said.lower()
    return sum(answer.lower() in lower for answer in answers) / len(answers)


def string_match_part(said: str, answers: Sequence[str]) -> float:
    """Return 1 if any answer stands in what was said, in whatever case.

    Source: Hsieh et al. 2024 (arXiv 2404.06654), RULER, for its questions.
    """
    return float(any(answer.lower() in said.lower() for answer in answers))


def altqa_accuracy(said: str, answers: Sequence[str]) -> float:
    """Return 1 if all that was said is an answer, but for case, and spaces and full stops at ends.

    Source: Dong et al. 2023 (arXiv 2309.13345), BAMBOO's `evaluate.py`, for AltQA.
    """
    return float(any(_bare(said) == _bare(answer) for answer in answers))


def first_number(said: str, answers: Sequence[str]) -> float:
    """Return 1 if the first number that was said is an answer; "1,964" is 1964, "2.0" is 2.

    What holds no number is compared as `altqa_accuracy` does.
    """
    first = _number(said)
    return float(any(first == _number(answer) for answer in answers))


SCORERS: dict[str, Scorer] = {
    "contains": contains,
    "exact": exact,
    "recall_from_weights": begins,
    "recall_in_context": begins,
    "squad_em": squad_em,
    "squad_f1": squad_f1,
    "best_subspan_em": best_subspan_em,
    "string_match_all": string_match_all,
    "string_match_part": string_match_part,
    "altqa_accuracy": altqa_accuracy,
    "first_number": first_number,
}
"""Name of a metric -> how it is computed."""


def _bare(text: str) -> str:
    return text.strip().strip(".").lower()


def _number(text: str) -> float | str:
    found = _NUMBER.search(text)
    return _bare(text) if found is None else float(found[0].replace(",", ""))


def _plain(text: str) -> str:
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _f1(said: list[str], right: list[str]) -> float:
    if not said or not right:
        return float(said == right)
    shared = (Counter(said) & Counter(right)).total()
    return 2 * shared / (len(said) + len(right))

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


SCORERS: dict[str, Scorer] = {
    "contains": contains,
    "exact": exact,
    "squad_em": squad_em,
    "squad_f1": squad_f1,
    "string_match_all": string_match_all,
    "string_match_part": string_match_part,
}
"""Name of a metric -> how it is computed."""


def _plain(text: str) -> str:
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _f1(said: list[str], right: list[str]) -> float:
    if not said or not right:
        return float(said == right)
    shared = (Counter(said) & Counter(right)).total()
    return 2 * shared / (len(said) + len(right))

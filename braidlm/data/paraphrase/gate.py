"""What is asked of a paraphrase before it is kept."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import Field

from braidlm.arch.config import Config

_WORD = re.compile(r"\w+(?:['’]\w+)*")


class GateConfig(Config):
    """Bounds of the gate."""

    min_distance: float = Field(default=0.05, ge=0, le=1)
    """Least lexical distance: 1 - Jaccard similarity of the two bags of lower-cased words."""
    max_distance: float = Field(default=0.95, ge=0, le=1)
    """Greatest lexical distance."""
    min_length: float = Field(default=0.4, ge=0)
    """Least length of the paraphrase in words, as a share of the text's."""
    max_length: float = Field(default=2.0, gt=0)
    """Greatest length of the paraphrase in words, as a share of the text's."""


class Verdict(NamedTuple):
    """What a gate says of one paraphrase."""

    scores: dict[str, float]
    reason: str = ""
    """Why it is rejected: a word, and after ":" what exactly; empty: it is accepted."""


class Gate:
    """Judges paraphrases by the bounds of a config."""

    def __init__(self, config: GateConfig) -> None:
        self.config = config

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """Return the verdict of each (text, paraphrase)."""
        return [self._one(text, paraphrase) for text, paraphrase in pairs]

    def _one(self, text: str, paraphrase: str) -> Verdict:
        c = self.config
        old, new = words(text), words(paraphrase)
        if not new:
            return Verdict({}, "empty paraphrase")
        length = len(new) / max(len(old), 1)
        distance = lexical_distance(old, new)
        scores = {"length_ratio": round(length, 4), "distance": round(distance, 4)}
        if not c.min_length <= length <= c.max_length:
            bounds = f"{c.min_length} to {c.max_length}"
            return Verdict(scores, f"length: ratio {length:.2f} is not in {bounds}")
        if distance < c.min_distance:
            return Verdict(scores, f"too alike: distance {distance:.2f} is below {c.min_distance}")
        if distance > c.max_distance:
            return Verdict(scores, f"too unlike: distance {distance:.2f} is over {c.max_distance}")
        return Verdict(scores)


def words(text: str) -> list[str]:
    """Return the words of a text, lower-cased."""
    return _WORD.findall(text.lower())


def lexical_distance(old: Sequence[str], new: Sequence[str]) -> float:
    """Return 1 - Jaccard similarity of two bags of words: 0 the same words, 1 none shared."""
    a, b = Counter(old), Counter(new)
    union = (a | b).total()
    return 1 - (a & b).total() / union if union else 0.0

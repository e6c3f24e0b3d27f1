"""What is asked of a paraphrase before it is kept: the same facts, in other words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, Self

from pydantic import Field, model_validator

from braidlm.arch.config import Config
from braidlm.data.paraphrase.facts import facts
from braidlm.data.paraphrase.similarity import Similarity

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_NAMED = 6


class GateConfig(Config):
    """Bounds of the gate; docs/paraphrases.md has what share of human pairs passes each default."""

    min_distance: float = Field(default=0.05, ge=0, le=1)
    """Least lexical distance: 1 - Jaccard similarity of the two bags of lower-cased words and
    pairs of neighbouring words."""
    max_distance: float = Field(default=0.9, ge=0, le=1)
    """Greatest lexical distance."""
    min_length: float = Field(default=0.5, ge=0)
    """Least length of the paraphrase in words, as a share of the text's."""
    max_length: float = Field(default=2.0, gt=0)
    """Greatest length of the paraphrase in words, as a share of the text's."""
    min_numbers: float = Field(default=1.0, ge=0, le=1)
    """Least share of the text's numbers that the paraphrase holds, in whatever form."""
    max_new_numbers: int = Field(default=0, ge=0)
    """Most numbers of the paraphrase that the text does not hold."""
    min_dates: float = Field(default=1.0, ge=0, le=1)
    """Least share of the text's months and days of the week that the paraphrase holds."""
    max_new_dates: int = Field(default=0, ge=0)
    """Most months and days of the week of the paraphrase that the text does not hold."""
    min_names: float = Field(default=1.0, ge=0, le=1)
    """Least share of the text's names (capitalised words inside sentences) that are kept."""
    max_new_names: int = Field(default=0, ge=0)
    """Most names of the paraphrase that are no words of the text."""
    semantic_model: str = ""
    """Sentence-embedding model: a folder, or a name from the Hugging Face Hub, for the package
    sentence-transformers; empty: the similarity of meaning is not judged, and the manifest says
    so."""
    min_similarity: float = Field(default=0.6, ge=-1, le=1)
    """Least cosine of the two embeddings; read where semantic_model is given."""

    @model_validator(mode="after")
    def _bands_are_bands(self) -> Self:
        for name in ("distance", "length"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if low > high:
                raise ValueError(f"min_{name} = {low} and max_{name} = {high}: no value is between")
        return self


class Verdict(NamedTuple):
    """What a gate says of one paraphrase."""

    scores: dict[str, float]
    """Every score, also those after the first that is out of bounds."""
    reason: str = ""
    """Why it is rejected: a word, and after ":" what exactly; empty: it is accepted."""


class Gate:
    """Judges paraphrases by the bounds of a config."""

    def __init__(self, config: GateConfig) -> None:
        """Load what the bounds need.

        Raises:
            InputError: the model of `semantic_model` cannot be loaded.
        """
        self.config = config
        self._similarity = Similarity(config.semantic_model) if config.semantic_model else None

    def described(self) -> dict[str, object]:
        """Return the bounds as the manifest has them: what is not judged stands there as None."""
        found = self.config.model_dump(mode="json")
        if self._similarity is None:
            found |= {"semantic_model": None, "min_similarity": None}
        return found

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """Return the verdict of each (text, paraphrase)."""
        close = self._similarity.of(pairs) if self._similarity and pairs else [None] * len(pairs)
        return [self._one(*pair, cosine) for pair, cosine in zip(pairs, close, strict=True)]

    def _one(self, text: str, paraphrase: str, cosine: float | None) -> Verdict:
        old, new = words(text), words(paraphrase)
        if not new:
            return Verdict({}, "empty paraphrase")
        scores = {
            "length_ratio": len(new) / max(len(old), 1),
            "distance": lexical_distance(old, new),
        }
        scores |= {} if cosine is None else {"similarity": cosine}
        reasons = [*self._bands(scores), *self._facts(text, paraphrase, scores)]
        rounded = {name: round(score, 4) for name, score in scores.items()}
        return Verdict(rounded, reasons[0] if reasons else "")

    def _bands(self, scores: dict[str, float]) -> Iterator[str]:
        c = self.config
        length, distance = scores["length_ratio"], scores["distance"]
        if not c.min_length <= length <= c.max_length:
            yield f"length: {length:.2f} times the text's, not {c.min_length} to {c.max_length}"
        if distance < c.min_distance:
            yield f"too alike: distance {distance:.2f} is below {c.min_distance}"
        if distance > c.max_distance:
            yield f"too unlike: distance {distance:.2f} is over {c.max_distance}"
        if scores.get("similarity", 1.0) < c.min_similarity:
            yield f"meaning: similarity {scores['similarity']:.2f} is below {c.min_similarity}"

    def _facts(self, text: str, paraphrase: str, scores: dict[str, float]) -> Iterator[str]:
        """Yield what is lost and what is new; put the shares and counts into `scores`."""
        c = self.config
        old, new = facts(text), facts(paraphrase)
        for kind, there, others, least, most in (
            ("numbers", new.numbers, old.numbers, c.min_numbers, c.max_new_numbers),
            ("dates", new.dates, old.dates, c.min_dates, c.max_new_dates),
            ("names", new.words, old.words, c.min_names, c.max_new_names),
        ):
            lost = getattr(old, kind) - there
            added = getattr(new, kind) - others
            kept = 1 - len(lost) / max(len(getattr(old, kind)), 1)
            scores |= {f"{kind}_kept": kept, f"new_{kind}": len(added)}
            if kept < least:
                yield f"{kind}: lost {_listed(lost)}"
            if len(added) > most:
                yield f"new {kind}: {_listed(added)}"


def words(text: str) -> list[str]:
    """Return the words of a text, lower-cased."""
    return _WORD.findall(text.lower())


def lexical_distance(old: Sequence[str], new: Sequence[str]) -> float:
    """Return 1 - Jaccard similarity of two bags that hold words and pairs of neighbours.

    0: the same words in the same order; 1: no word shared. The pairs let it see an order that
    changed while the words did not.
    """
    a, b = (Counter([*words, *pairwise(words)]) for words in (old, new))
    union = (a | b).total()
    return 1 - (a & b).total() / union if union else 0.0


def _listed(found: Collection[str]) -> str:
    shown = sorted(found)
    more = f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    return ", ".join(shown[:_NAMED]) + more

"""Methods that fail in the ways that real ones do, and folders made with them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from braidlm.data.paraphrase.folder import read_pairs, read_rejected
from braidlm.data.paraphrase.gate import Gate, GateConfig
from braidlm.data.paraphrase.make import Made, make
from braidlm.data.paraphrase.method import Draft, Passage, PassageError

OPEN = GateConfig(
    min_distance=0,
    max_distance=1,
    min_length=0,
    max_length=9,
    min_numbers=0,
    max_new_numbers=99,
    min_dates=0,
    max_new_dates=99,
    min_names=0,
    max_new_names=99,
)
"""Rejects what is empty, and nothing else."""


class Echo:
    """Writes "TEXT again" for each passage, after doing what `act` says."""

    def __init__(
        self,
        texts: Sequence[str],
        act: Callable[[Passage], None] | None = None,
        workers: int = 1,
        batch_size: int = 1,
    ) -> None:
        self.workers, self.batch_size = workers, batch_size
        self._texts, self._act = texts, act
        self.asked: Counter[str] = Counter()
        self._lock = threading.Lock()

    def passages(self) -> Iterator[Passage]:
        for i, text in enumerate(self._texts):
            yield Passage(f"t{i}", text)

    def paraphrase(self, batch: Sequence[Passage]) -> Sequence[Sequence[Draft] | PassageError]:
        with self._lock:
            self.asked.update(passage.id for passage in batch)
        return [self._one(passage) for passage in batch]

    def _one(self, passage: Passage) -> Sequence[Draft] | PassageError:
        try:
            if self._act:
                self._act(passage)
        except PassageError as error:
            return error
        return [Draft(f"{passage.text} again")]


def slowly(passage: Passage) -> None:
    """Be the slower the earlier the passage stands, so that later ones overtake it."""
    time.sleep(0.003 * (5 - int(passage.id[1:]) % 6))


def made(
    echo: Any, out: Path, gate: GateConfig = OPEN, /, *, retry_failed: bool = False, **header: Any
) -> Made:
    about = {"method": "echo", "settings": {}, "seed": 0, "source": None}
    about = {**about, "gate": gate.model_dump(), **header}
    return make(echo, Gate(gate), out, about, retry_failed=retry_failed)


def accepted(out: Path) -> list[tuple[str, str]]:
    return [(pair.id, pair.paraphrase) for pair in read_pairs(out)]


def reasons(out: Path) -> dict[str, str]:
    return {pair.id: reason for pair, reason in read_rejected(out)}

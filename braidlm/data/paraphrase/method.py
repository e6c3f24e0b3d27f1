"""What writes paraphrases: passages in, drafts out.

To add a method: a frozen `Config` of its settings and a class with the four members of `Method`
in a file of its own, and one row in `methods.METHODS`. `pairs.py` is the smallest one. Everything
else (reading, resuming, duplicates, the gate, the folder, the report) is done for it by `make`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable


class Passage(NamedTuple):
    """A text to be paraphrased."""

    id: str
    """No other passage of the input has it, and it is the same in every run."""
    text: str
    given: tuple[str, ...] = ()
    """Paraphrases that the input itself holds, for methods that take them from there."""
    wanted: tuple[int, ...] = ()
    """Numbers of the paraphrases to be written, of those that had no answer before; (): all."""


@dataclass(frozen=True)
class Draft:
    """One paraphrase as a method wrote it; the gate has not seen it yet."""

    text: str
    scores: dict[str, float] = field(default_factory=dict)
    """What the method knows of it, such as how many words it changed; kept beside the gate's."""
    reason: str = ""
    """Why the method itself rejects it, such as an answer that was cut: a word, and after ":" what
    exactly. The gate is then not asked, and `text` may be empty."""


class PassageError(Exception):
    """This passage cannot be paraphrased, now or later: it is kept as rejected, with the reason.

    What may work at another time is no such failure: try again, and when that is hopeless raise
    `StoppedError`, so that the next run begins there.
    """


class StoppedError(Exception):
    """No more can be done now (a budget is spent, an endpoint is down): what is done is kept.

    The message is the sentence that the user reads. The passages of the batch count as not done.
    """


class Method(Protocol):
    """A way to write paraphrases."""

    workers: int
    """Batches at a time, each in a thread of its own; 1: `paraphrase` need not be thread-safe."""
    batch_size: int
    """Passages that `paraphrase` takes at once."""

    def passages(self) -> Iterator[Passage]:
        """Yield the passages in a fixed order, empty ones and duplicates included.

        Called once per run and in one thread; the same in every run with equal settings.

        Raises:
            InputError: the input cannot be read.
        """
        ...

    def paraphrase(self, batch: Sequence[Passage]) -> Sequence[Sequence[Draft] | PassageError]:
        """Return the drafts of each passage of a batch, or why there are none, in its order.

        Of a passage with `wanted` these alone. A draft that is empty, with a reason, had no answer.

        Called from `workers` threads. What is random depends on the seed and the passage's id
        alone (`seeding.generator(seed, passage.id)`), never on the order of calls.

        Raises:
            PassageError: no passage of the batch can be paraphrased.
            StoppedError: no more can be done now.
            InputError: what the user gave cannot be used.
        """
        ...


@runtime_checkable
class Closable(Protocol):
    """A method whose threads may wait for long, as for an endpoint."""

    def close(self) -> None:
        """End what is under way, so that `paraphrase` raises `StoppedError` soon."""
        ...

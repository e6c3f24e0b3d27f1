"""Every law by name, in the order in which a failure is to be read: causes before effects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from braidlm.errors import InputError
from braidlm.laws import batches, numbers, sequences
from braidlm.laws.gap import Gap, Plan
from braidlm.laws.subject import Subject

TOLERANCES = {"fp64": 1e-9, "fp32": 1e-4, "bf16": 0.25}
"""Largest difference of logits over their spread, by the dtype that is judged."""


@dataclass(frozen=True)
class Law:
    """One law."""

    name: str
    says: str
    """What must hold, in a few words."""
    measure: Callable[[Subject, Plan], Iterator[Gap]]
    hint: str
    """Where to look when it fails."""
    unit: str = "of the logits' spread"
    """What its errors are multiples of."""
    tolerance: float | None = None
    """Its own tolerance; None: that of the dtype."""
    share: float = 1.0
    """Factor on the dtype's tolerance."""
    follows: tuple[str, ...] = ()
    """Laws whose failure makes this one fail too."""


LAWS = (
    Law(
        "causality",
        "a changed token leaves the logits before it as they are",
        sequences.causality,
        "something sums or normalises over later tokens: a mask that is missing, or the pass of "
        "states between chunks",
        share=1e-2,  # one call against another of the same shape: most models differ by nothing
    ),
    Law(
        "chunks",
        "another chunk size gives the same logits",
        sequences.chunks,
        "the state that one chunk hands to the next is wrong; one chunk alone is right",
        follows=("causality",),
    ),
    Law(
        "batch",
        "a row of a batch gets what it gets alone",
        batches.batch,
        "a statistic or a capacity is taken over the whole batch",
    ),
    Law(
        "steps",
        "prefill and single steps are one full forward",
        sequences.steps,
        "the cache that a prefill leaves, or the step that reads it: the convolution's window, the "
        "position, a clamp that only one of both paths has",
        follows=("causality",),
    ),
    Law(
        "continuation",
        "many tokens that continue a cache are one full forward",
        sequences.continuation,
        "a call of several tokens starts from an empty state, or its positions from zero",
        follows=("causality",),
    ),
    Law(
        "carried",
        "segments with carried state are one sequence",
        sequences.carried,
        "the state after a continued call is not the one that the next call needs",
        follows=("causality", "steps", "continuation"),
    ),
    Law(
        "left_padding",
        "a row padded on the left gets what it gets alone",
        batches.left_padding,
        "padding enters a state or a score, or positions count it",
        follows=("causality", "batch", "steps"),
    ),
    Law(
        "right_padding",
        "a row padded on the right gets what it gets alone",
        batches.right_padding,
        "padding enters a score, or the state that a later step reads",
        follows=("causality", "batch", "steps"),
    ),
    Law(
        "packed",
        "a document in a packed row gets what it gets alone",
        batches.packed,
        "a scan, a convolution, a mask or a position does not begin anew with a document",
        follows=("causality",),
    ),
    Law(
        "initialisation",
        "a fresh model's dt, A and D lie in their published ranges",
        numbers.initialisation,
        "it matters only where training starts from nothing; the parameter is skipped or "
        "overwritten by a general rule",
        unit="of the range's upper end",
        tolerance=1e-3,
    ),
    Law(
        "accounting",
        "parameters, FLOPs and cache bytes are what is predicted",
        numbers.accounting,
        "a weight, a cache or a product that the declaration does not know",
        unit="of what is predicted",
        tolerance=0.0,
    ),
    Law(
        "fp32",
        "fp32 follows fp64",
        numbers.fp32,
        "a sum or a power of many terms loses its digits, or something is cast below fp32",
        unit="times one rounding of the weights",
        tolerance=50.0,
    ),
    Law(
        "bf16",
        "bf16 stays near fp64 with the same rounded weights",
        numbers.bf16,
        "a statistic, a decay or a state is kept in bf16; they need fp32",
        unit="times one rounding of the weights",
        tolerance=4.0,
        follows=("fp32",),
    ),
)

NAMES = tuple(law.name for law in LAWS)


def choose(names: Sequence[str] | None) -> tuple[Law, ...]:
    """Return the laws of these names in their own order; None: all.

    Raises:
        InputError: a name that no law has.
    """
    if names is None:
        return LAWS
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        word = unknown[0] if unknown else ""
        raise InputError(f"laws: {word!r} is no law; allowed: {', '.join(NAMES)}")
    return tuple(law for law in LAWS if law.name in names)


def tolerance_of(law: Law, dtype: str, given: float | None) -> float:
    """Return what a law allows: its own tolerance, or that which is given or the dtype has."""
    if law.tolerance is not None:
        return law.tolerance
    return law.share * (TOLERANCES[dtype] if given is None else given)

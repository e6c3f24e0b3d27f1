"""Every instrument, by name, in the order in which a page shows them."""

from __future__ import annotations

from collections.abc import Sequence

from braidlm.analysis import (
    ablation,
    attention_span,
    branch_share,
    in_context,
    influence,
    memory_length,
    repeats,
    retrieval_heads,
    state_use,
    surgery,
)
from braidlm.analysis.instrument import Instrument
from braidlm.arch.config import nearest
from braidlm.errors import InputError

INSTRUMENTS: dict[str, Instrument] = {
    module.INSTRUMENT.name: module.INSTRUMENT
    for module in (
        memory_length,
        attention_span,
        branch_share,
        influence,
        state_use,
        surgery,
        ablation,
        retrieval_heads,
        repeats,
        in_context,
    )
}


def choose_instruments(names: Sequence[str] | None) -> list[Instrument]:
    """Return the named instruments in the table's order; None: all.

    Raises:
        InputError: an unknown name, or none at all.
    """
    if names is None:
        return list(INSTRUMENTS.values())
    allowed = ", ".join(INSTRUMENTS)
    if not names:
        raise InputError(f"no instrument is named; allowed: {allowed}")
    for name in names:
        if name not in INSTRUMENTS:
            close = nearest(name, list(INSTRUMENTS))
            raise InputError(f"instrument '{name}' is unknown{close}; allowed: {allowed}")
    return [instrument for name, instrument in INSTRUMENTS.items() if name in names]

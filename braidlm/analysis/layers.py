"""Which sublayers are looked at."""

from __future__ import annotations

import re

from braidlm.errors import InputError


def parse_layers(text: str | None, n_layers: int) -> frozenset[int] | None:
    """Read numbers and ranges of sublayers, such as "0,2-4"; None: all.

    Raises:
        InputError: anything else, or a number that the model does not have.
    """
    if text is None:
        return None
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if low > high or high >= n_layers:
            raise InputError(
                f"--layers {text}: '{part}' is no number or range of sublayers 0 to "
                f"{n_layers - 1}, such as 0,2-4"
            )
        found |= set(range(low, high + 1))
    return frozenset(found)

"""What a fine-tuning changed: every task, asked of the initial weights and of the trained ones."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from braidlm.errors import InputError


def changes(out: Path, before: Path, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare two runs item by item in all that was asked of both; see `report.versus.compare`.

    What cannot be compared, such as a single item, is said on standard error and left out.
    """
    from braidlm.report.versus import compare

    found = []
    for result in results:
        try:
            found += compare(out, before, [f"{result['kind']}-{result['name']}"])
        except InputError as error:
            print(f"braid: no comparison with the initial weights: {error}", file=sys.stderr)
    return found

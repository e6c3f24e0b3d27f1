"""`python -m tests.faults`: faults by the thousand; exit code 1 when one of them did harm."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import kills, mutations


def main() -> int:
    """Run one kind of fault and print its figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("kind", choices=("kills", "mutations"))
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.monotonic()
    place = Path(tempfile.mkdtemp(prefix="faults-"))
    kind = {"kills": kills, "mutations": mutations}[args.kind]
    found = kind.run(args.count, place, args.seed)
    print(kind.table(found))
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    return 1 if found.defects else 0


if __name__ == "__main__":
    sys.exit(main())

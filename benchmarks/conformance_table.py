"""The laws over families of transformers as they are installed: the table of docs/conformance.md.

    python benchmarks/conformance_table.py
    python benchmarks/conformance_table.py zamba2 nemotron_h --laws causality chunks --seeds 0

Every family is built with a tiny configuration and lively random weights, on the CPU in fp32; what
fails there is measured again in fp64. A cell holds the largest error of all seeds; bold: the law
fails, `@` names the first position, and `in 1 of 3` counts the seeds where not all of them fail.
`-` stands for a law that is not applicable. For another version of transformers put its folder
before the installed one: ``PYTHONPATH=DIR python ...``. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from braidlm import conform
from braidlm.laws.catalogue import NAMES
from braidlm.laws.hf_tiny import TINY
from braidlm.laws.verdict import Verdict


def cell(verdicts: Sequence[Verdict]) -> str:
    """Return one cell of the table: one law and family, a verdict per seed."""
    asked = [v for v in verdicts if v.status != "not applicable"]
    if not asked:
        return "-"
    failed = [v for v in asked if v.status == "fail"]
    size = _size(failed or asked)
    if not failed:
        return size
    positions = [v.first_position for v in failed if v.first_position is not None]
    place = f" @{min(positions)}" if positions else ""
    share = "" if len(failed) == len(asked) else f" in {len(failed)} of {len(asked)}"
    return f"**{size}**{place}{share}"


def _size(verdicts: Sequence[Verdict]) -> str:
    errors = [v.error for v in verdicts if v.error is not None]
    if len(errors) < len(verdicts):
        return "crash"
    worst = max(errors)
    if verdicts[0].law in ("fp32", "bf16"):
        return f"{worst:.1f}"
    return f"{worst:.0e}" if worst else "0"


def main() -> None:
    """Print a row per family as it is judged."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("families", nargs="*", default=list(TINY))
    parser.add_argument("--laws", nargs="+", default=list(NAMES))
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    print("| family |", " | ".join(name.replace("_", " ") for name in options.laws), "|")
    print("|---" * (len(options.laws) + 1) + "|")
    found = {}
    for family in options.families:
        reports = [_judged(family, seed, options) for seed in options.seeds]
        found[family] = [report.to_dict() for report in reports]
        cells = [cell([report[law] for report in reports]) for law in options.laws]
        print(f"| `{family}` |", " | ".join(cells), "|", flush=True)
    print(json.dumps(found))


def _judged(family: str, seed: int, options: argparse.Namespace) -> conform.Report:
    report = conform.check(
        family,
        laws=options.laws,
        seed=seed,
        dtype=options.dtype,
        random_weights=True,
        tiny=True,
        device="cpu",
    )
    for verdict in report.failed:
        print(f"{family}, seed {seed}: {conform.sentence(verdict)}", file=sys.stderr, flush=True)
    return report


if __name__ == "__main__":
    main()

"""The laws over families of transformers as they are installed: the table of docs/conformance.md.

    python benchmarks/conformance_table.py
    python benchmarks/conformance_table.py zamba2 nemotron_h --laws causality chunks steps

Every family is built with a tiny configuration and lively random weights, on the CPU in fp32; what
fails there is measured again in fp64. A cell holds the largest error; bold: the law fails, and
`@` names the first position. `-` stands for a law that is not applicable. For another version of
transformers put its folder before the installed one: ``PYTHONPATH=DIR python ...``. The last line
printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys

from braidlm import conform
from braidlm.laws.catalogue import NAMES
from braidlm.laws.hf_tiny import TINY
from braidlm.laws.verdict import Verdict


def cell(verdict: Verdict) -> str:
    """Return one cell of the table."""
    if verdict.status == "not applicable":
        return "-"
    size = "crash" if verdict.error is None else f"{verdict.error:.0e}" if verdict.error else "0"
    if verdict.law in ("fp32", "bf16") and verdict.error:
        size = f"{verdict.error:.1f}"
    if verdict.status == "pass":
        return size
    first = verdict.first_position
    return f"**{size}**" + (f" @{first}" if first is not None else "")


def main() -> None:
    """Print a row per family as it is judged."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("families", nargs="*", default=list(TINY))
    parser.add_argument("--laws", nargs="+", default=[n for n in NAMES if n != "accounting"])
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| family |", " | ".join(name.replace("_", " ") for name in options.laws), "|")
    print("|---" * (len(options.laws) + 1) + "|")
    found = {}
    for family in options.families:
        settings = {"laws": options.laws, "seed": options.seed, "dtype": options.dtype}
        report = conform.check(family, random_weights=True, tiny=True, device="cpu", **settings)
        found[family] = report.to_dict()
        cells = [cell(report[law]) for law in options.laws]
        print(f"| `{family}` |", " | ".join(cells), "|", flush=True)
        for verdict in report.failed:
            print(f"{family}: {conform.sentence(verdict)}", file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()

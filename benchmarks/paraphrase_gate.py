"""What share of pairs passes each bound of the gate, beside how the scores are spread.

python benchmarks/paraphrase_gate.py asset turk shuffled   # folders of `braid paraphrase`
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import chain

from braidlm.data.paraphrase.folder import read_manifest, read_pairs, read_rejected
from braidlm.data.paraphrase.gate import GateConfig

SHARES = (1, 5, 25, 50, 75, 95, 99)
Scores = dict[str, float]


def bounds(gate: GateConfig) -> dict[str, Callable[[Scores], bool]]:
    """What each bound asks of the scores, alone."""
    return {
        f"length {gate.min_length} to {gate.max_length}": lambda s: (
            gate.min_length <= s["length_ratio"] <= gate.max_length
        ),
        f"distance from {gate.min_distance}": lambda s: s["distance"] >= gate.min_distance,
        f"distance to {gate.max_distance}": lambda s: s["distance"] <= gate.max_distance,
        "numbers kept": lambda s: s["numbers_kept"] >= gate.min_numbers,
        "numbers new": lambda s: s["new_numbers"] <= gate.max_new_numbers,
        "dates kept": lambda s: s["dates_kept"] >= gate.min_dates,
        "dates new": lambda s: s["new_dates"] <= gate.max_new_dates,
        "names kept": lambda s: s["names_kept"] >= gate.min_names,
        "names new": lambda s: s["new_names"] <= gate.max_new_names,
        f"similarity from {gate.min_similarity}": lambda s: (
            s.get("similarity", 1.0) >= gate.min_similarity
        ),
    }


def scores_of(folder: str) -> list[Scores]:
    """The scores of every pair of a folder, what stands there twice but once."""
    rejected = (pair for pair, reason in read_rejected(folder) if reason != "repeated")
    return [pair.scores for pair in chain(read_pairs(folder), rejected) if pair.scores]


def main(folders: list[str]) -> None:
    """Print one table of shares and one of percentiles."""
    gate = {k: v for k, v in read_manifest(folders[0])["gate"].items() if v is not None}
    asked = bounds(GateConfig.of(gate))
    found = {folder: scores_of(folder) for folder in folders}
    print(f"{'percent of pairs':<24}" + "".join(f"{folder[-14:]:>15}" for folder in folders))
    print(f"{'n':<24}" + "".join(f"{len(found[folder]):>15,}" for folder in folders))
    every = {"all of them": lambda s: all(holds(s) for holds in asked.values())}
    if gate.get("semantic_model") is None:  # not judged
        asked.pop(f"similarity from {GateConfig.of(gate).min_similarity}")
    for name, holds in {**asked, **every}.items():
        shares = (100 * sum(map(holds, s)) / len(s) for s in found.values())
        print(f"{name:<24}" + "".join(f"{share:>15.1f}" for share in shares))
    print(f"\n{'percentiles':<30}" + "".join(f"{share:>9}" for share in SHARES))
    for folder, rows in found.items():
        for name in ("length_ratio", "distance", "similarity", "names_kept", "numbers_kept"):
            values = sorted(row[name] for row in rows if name in row)
            if not values:
                continue
            at = [values[min(len(values) * p // 100, len(values) - 1)] for p in SHARES]
            print(f"{folder[-14:]:<15}{name:<15}" + "".join(f"{value:>9.3f}" for value in at))


if __name__ == "__main__":
    main(sys.argv[1:])

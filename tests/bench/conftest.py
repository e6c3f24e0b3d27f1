"""Tiny models on one thread, measured once for all tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from braidlm.bench import Outcome, Plan, bench
from braidlm.bench.ceiling import Sizes

SMALL = Sizes(2**16, 64)
MIXERS = {
    "M": {"n_heads": 4, "head_dim": 8, "d_state": 8, "chunk_size": 8},
    "G": {"n_heads": 2, "head_dim": 8, "v_head_dim": 8, "chunk_size": 8},
    "*": {"n_heads": 4, "head_dim": 4, "n_kv_heads": 2},
    "W": {"n_heads": 4, "head_dim": 4, "n_kv_heads": 2, "window": 10},
    "-": {"d_ff": 32},
}
PATTERNS = {
    "mamba2": "MM",
    "attention": "*-",
    "window": "W-",
    "gated deltanet": "G-",
    "hybrid": "M-*-",
    "parallel": "{M*}-",
}
PLAN = Plan(contexts=(12, 24), batch_sizes=(2,), new_tokens=3, repeats=3, warmups=2, device="cpu",
            threads=1)  # fmt: skip


def declaration(pattern: str, folder: Path) -> Path:
    """A file that declares nothing but a model."""
    mixers = {name: MIXERS[name] for name in dict.fromkeys(pattern) if name in MIXERS}
    model = {"pattern": pattern, "d_model": 16, "vocab_size": 300, "mixers": mixers}
    path = folder / "model.json"
    path.write_text(json.dumps({"name": "tiny", "model": model}))
    return path


Measure = Callable[..., Outcome]


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measure:
    """Give the outcome for one of `PATTERNS`, measured at the first call."""
    known: dict[str, Outcome] = {}

    def give(name: str) -> Outcome:
        if name not in known:
            path = declaration(PATTERNS[name], tmp_path_factory.mktemp("model"))
            known[name] = bench(path, PLAN, sizes=SMALL)
        return known[name]

    return give


def rows(outcome: Outcome, **wanted: Any) -> list[dict[str, Any]]:
    """The rows in which these fields have these values."""
    return [r for r in outcome.rows if all(r[k] == v for k, v in wanted.items())]

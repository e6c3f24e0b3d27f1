"""Every instrument on every architecture: sane numbers, or a reason why there is nothing to see."""

import json
import math
from typing import Any

import numpy as np
import pytest

from braidlm.analysis.inputs import Asked, Document, Inputs
from braidlm.analysis.instrument import Finding, Instrument, Subject
from braidlm.analysis.memory_length import forgets
from braidlm.analysis.table import INSTRUMENTS
from braidlm.arch import Spec
from braidlm.generate.mode import inference
from braidlm.model import HybridLM
from tests.analysis.known import model_of
from tests.specs import ALL

T, N = 22, 3
BETWEEN: dict[str, tuple[float, float]] = {
    "share": (0, 1),
    "first": (0, 1),
    "four": (0, 1),
    "learned": (0, 1),
    "meta": (0, 1),
    "other": (0, 1),
    "gate": (0, 1),
    "weight": (0, 1),
    "cosine": (-1, 1),
    "accuracy": (0, 1),
    "copy": (0, 1),
    "mass": (0, 1),
    "self": (0, 1),
    "reach": (0, T - 1),
    "p_a": (0, 1),
    "p_b": (0, 1),
    "distance": (0, T - 1),
    "rest": (0, T - 1),
    "span": (1, T),
    "entropy": (0, math.log(T + 10)),
    "half_distance": (1, T - 1),
    "half_life": (0, 1e9),
    "beta": (0, 2),
    "eigenvalue": (-1, 1),
    "negative": (0, 1),
    "influence": (0, 1e6),
    "nudged": (0, 1e6),
    "rank": (1, 64),
    "norm": (0, 1e6),
    "recovered": (-8, 16),
    "kv": (-1, 1),
    "recurrent": (-1, 1),
    "total": (-1, 1),
    "loss": (0, 50),
    "nll": (0, 50),
    "rms": (0, 1e6),
}
"""What a column can be at all; `recovered` may fall below 0 by bad luck."""
EMPTY = ("half_distance",)
"""Columns without a value where there is nothing: no influence at any distance."""


def prompts(spec: Spec) -> Inputs:
    """Pairs of a key and a value, two questions with answers, a third without."""
    found = []
    for i in range(N):
        rng = np.random.default_rng(i)
        keys, values = rng.permutation(15)[:8], 15 + rng.permutation(15)[:8]
        pairs = np.stack((keys, values), 1)
        which = rng.permutation(8)[:3]
        tokens = np.concatenate((pairs.ravel(), pairs[which].ravel()))[:-1]
        asked = [
            Asked(16 + 2 * j, (int(values[k]),), (int(2 * k + 1), int(2 * k + 2)))
            for j, k in enumerate(which)
        ]
        tokens = np.concatenate((tokens, rng.integers(15, 30, size=T - len(tokens))))
        found.append(Document(str(i), tokens, tuple(asked)))
    return Inputs("recall", "recall", {}, found)


def found_by(instrument: Instrument, model: HybridLM) -> Finding:
    inputs = prompts(model.spec)
    if instrument.needs == "text":
        inputs = Inputs("", "text", {}, [d._replace(asked=()) for d in inputs.documents])
    subject = Subject(model, inputs)
    if instrument.needs_grad:
        return instrument.run(subject, lambda done, total: None)
    with inference(model):
        return instrument.run(subject, lambda done, total: None)


def check_row(row: dict[str, Any], where: str) -> None:
    json.dumps(row, allow_nan=False)
    for name, value in row.items():
        if name in BETWEEN and not isinstance(value, str) and not (value is None and name in EMPTY):
            low, high = BETWEEN[name]
            assert value is not None, f"{where}: {name} is missing in {row}"
            is_sane = low - 1e-6 <= value <= high + 1e-6
            assert is_sane, f"{where}: {name} = {value} in {row}"
        if name.endswith("_stderr") and value is not None:
            assert float(value) >= 0


def expected_places(name: str, spec: Spec) -> set[str] | None:
    """Where rows must be of the instruments that name every mixer of a role; None: no such one."""
    role = {"attention-span": "attention", "memory-length": "recurrent"}.get(name)
    if role is None:
        return None
    found = set()
    for s in spec.sublayers:
        for i, config in enumerate(s.branches):
            place = f"{s.index}.{i}" if s.is_parallel else str(s.index)
            if role == "recurrent" and forgets(config):
                inner: Any = getattr(config, "ssm", None)
                found.add(f"{place}.ssm" if inner is not None else place)
            if role == "attention" and config.role == "attention":
                found.add(place)
        if role == "attention" and s.fusion is not None and s.fusion.cross is not None:
            found.add(f"{s.index}.fusion")
    return found


def check(name: str, model: HybridLM) -> None:
    instrument = INSTRUMENTS[name]
    why_not = instrument.why_not(model.spec.sublayers)
    places = expected_places(name, model.spec)
    if why_not is not None:
        assert why_not.startswith("no layer ")
        assert not places
        return
    found = found_by(instrument, model)
    assert found.metrics[found.metric]["n"] in (N, N // 2)
    for metric, entry in found.metrics.items():
        assert entry["value"] is None or math.isfinite(entry["value"]), metric
    assert found.metrics[found.metric]["value"] is not None
    for table, rows in found.tables.items():
        assert rows or table in ("contrasts", "fusions"), f"{name}: {table} is empty"
        for row in rows:
            check_row(row, f"{name}: {table}")
    if places is not None:
        assert {row["place"] for row in found.tables["heads"]} == places
    if name == "surgery":
        assert found.metrics["control"]["value"] == 0


FAST = [
    "keys lent between branches, meta tokens (Hymba)",
    "more meta tokens than a chunk",
]


@pytest.mark.parametrize("name", INSTRUMENTS)
@pytest.mark.parametrize("architecture", FAST)
def test_some_architectures(architecture, name):
    check(name, model_of(ALL[architecture]))


SLOW = [
    "two shared blocks (Zamba2)",
    "mamba1 in groups (Zamba), biases",
    "gated deltanet, negative eigenvalues (OLMo-Hybrid)",
    "kda, grouped, other ranks, no bias, silu",
    "window with sinks, narrow values",
    "every option of attention",
    "scale by position (HypeNet)",
    "B'MOJO-F, untied, gated deltanet, norms, biases",
    "B'MOJO-F beside Mamba-2",
    "latent attention beside Mamba-2",
    "mlp gelu",
    "experts, sigmoid, groups, bias, latent (Nemotron 3)",
    "cross-attention (Lee)",
    "cross-attention reversed, rope",
    "merge-attention, window",
    "gate per token",
    "three branches",
    "delta rule and attention, cross",
    "two fusions",
    "hybrid of experts",
    "norms after attention, offset (OLMo)",
    "shared branches, handed on",
    "shared B'MOJO-F beside the embedding",
    "meta tokens that fade (B'MOJO-F)",
    "keys lent (Hymba)",
]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", SLOW)
def test_every_architecture(architecture):
    model = model_of(ALL[architecture])
    for name in INSTRUMENTS:
        check(name, model)

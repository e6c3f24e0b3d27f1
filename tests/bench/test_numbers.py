"""What is told agrees with itself, and predicted bytes are those that are there."""

import dataclasses
import statistics

import pytest
import torch

from braidlm import HybridLM
from braidlm.arch.cost import cost
from braidlm.arch.mixers import Mamba2Config
from braidlm.arch.recipe import load_spec
from braidlm.bench import accounts as counting
from braidlm.bench import as_data, bench
from tests import specs
from tests.bench.conftest import PATTERNS, PLAN, SMALL, declaration, rows


def near(value):
    return pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("name", PATTERNS)
def test_bytes_that_are_predicted_are_allocated(measured, name, tmp_path):
    outcome = measured(name)
    spec = load_spec(declaration(PATTERNS[name], tmp_path))
    assert outcome.faults == []
    for row in [*rows(outcome, mode="prefill"), *rows(outcome, mode="decode")]:
        one = cost(spec, row["context"], kv_dtype_bytes=4)
        held = {"kv_bytes": 2 * one.kv_bytes, "state_bytes": 2 * one.state_bytes}
        assert row["allocated"] == held
        assert {key: row["predicted"][key] for key in held} == held
        assert sum(held.values()) > 0


def test_no_architecture_has_a_fault():
    """Each option of the declaration, at a length that no window and no chunk divides."""
    found = {}
    for name, spec in specs.ALL.items():
        torch.manual_seed(0)
        model = HybridLM(spec).eval()
        tokens = torch.randint(spec.vocab_size, (2, 13))
        faults = [*counting.counted(model), *counting.accounts(model, tokens, "fp32").faults]
        found |= {name: faults} if faults else {}
    assert found == {}
    assert len(specs.ALL) > 80


def test_every_mode_context_and_batch_size_is_told_in_order(measured):
    found = [(r["mode"], r["context"], r["batch"], r["n"]) for r in measured("hybrid").rows]
    assert found == [(m, c, 2, 3) for m in ("train", "prefill", "decode") for c in (12, 24)]


def test_rates_are_tokens_and_flops_over_the_median_time(measured):
    outcome = measured("hybrid")
    for row in outcome.rows:
        sec = row["unit_sec"]
        n_tokens = 2 if row["mode"] == "decode" else 2 * row["context"]
        assert row["tokens"] == n_tokens
        assert row["tokens_per_sec"] == near(n_tokens / sec)
        assert row["flops_per_sec"] == near(row["predicted"]["model_flops"] / sec)
        assert row["mfu"] == near(row["flops_per_sec"] / row["matmul_flops_per_sec"])
        assert row["unit_sec_low"] <= row["unit_sec_q1"] <= sec <= row["unit_sec_q3"]
        assert row["tokens_per_sec_low"] <= row["tokens_per_sec"] <= row["tokens_per_sec_high"]


def test_the_device_is_timed_around_every_point(measured):
    outcome = measured("hybrid")
    assert [len(mode.ceilings) for mode in outcome.modes] == [2, 2, 2]
    for mode in outcome.modes:
        for row, ceiling in zip(mode.rows, mode.ceilings, strict=True):
            assert len(ceiling.copy_sec) == len(ceiling.matmul_sec) == PLAN.repeats
            assert row["matmul_flops_per_sec"] == near(
                2 * 64**3 / statistics.median(ceiling.matmul_sec)
            )
            assert row["copy_bytes_per_sec"] == near(
                2 * 2**16 / statistics.median(ceiling.copy_sec)
            )
    assert sum(len(c.copy_sec) for c in outcome.ceilings.values()) == 6 * PLAN.repeats


def test_decoding_tells_bytes_against_the_copy_and_the_first_token(measured):
    outcome = measured("attention")
    for row in rows(outcome, mode="decode"):
        moved = row["predicted"]["moved_bytes"]
        assert row["bytes_per_sec"] == near(moved / row["unit_sec"])
        assert row["copy_share"] == near(row["bytes_per_sec"] / row["copy_bytes_per_sec"])
        assert row["ttft_sec_q1"] <= row["ttft_sec"] <= row["ttft_sec_q3"]
    assert "ttft_sec" not in rows(outcome, mode="prefill")[0]


def test_a_prediction_at_the_ceiling_is_the_slower_of_products_and_bytes(measured):
    outcome = measured("mamba2")
    (row, _) = rows(outcome, mode="decode")
    told = row["predicted"]
    slowest = max(
        told["model_flops"] / row["matmul_flops_per_sec"],
        told["moved_bytes"] / row["copy_bytes_per_sec"],
    )
    assert told["tokens_per_sec"] == near(2 / slowest)


def test_flops_of_a_prefill_hold_the_head_once_a_row(measured, tmp_path):
    spec = load_spec(declaration(PATTERNS["hybrid"], tmp_path))
    c = cost(spec, 12)
    (row, _) = rows(measured("hybrid"), mode="prefill")
    assert row["predicted"]["model_flops"] == 2 * (c.model_flops - 11 * c.head_flops // 12)


def test_a_state_that_is_not_as_declared_is_found(tmp_path, monkeypatch):
    """Plant a mixer that declares one column of its convolution too few."""
    honest = Mamba2Config.state_bytes

    def lie(self, dtype_bytes=4, conv_columns=None):
        columns = self.d_conv - 2 if conv_columns is None else conv_columns
        return honest(self, dtype_bytes, columns)

    monkeypatch.setattr(Mamba2Config, "state_bytes", lie)
    plan = dataclasses.replace(PLAN, modes=("prefill",), contexts=(12,))
    outcome = bench(declaration("M-*-", tmp_path), plan, sizes=SMALL)
    (row,) = outcome.rows
    missing = 2 * 4 * (32 + 2 * 8)  # rows, bytes, channels of x, B and C
    assert row["allocated"]["state_bytes"] - row["predicted"]["state_bytes"] == missing
    (fault,) = outcome.faults
    assert "state of sublayer 0 (M) at 12 tokens x 2" in fault
    assert as_data(outcome)["faults"] == [fault]


def test_parameters_that_are_not_as_declared_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "priced", lambda *_: cost(load_spec("M"), 1))
    plan = dataclasses.replace(PLAN, modes=("train",), contexts=(12,))
    (fault,) = bench(declaration("*-", tmp_path), plan, sizes=SMALL).faults
    assert fault.startswith("parameters: predicted ")

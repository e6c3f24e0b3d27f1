"""Every example runs, and says what it would not say if the code were wrong."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Return a function that runs an example in an empty folder and gives what it prints."""

    def run(name: str) -> str:
        folder = tmp_path_factory.mktemp(name)
        done = subprocess.run(
            [sys.executable, "-W", "error", EXAMPLES / f"{name}.py"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert list(folder.iterdir()) == []
        return done.stdout

    return run


def number(text: str, before: str) -> float:
    """Return the first number behind `before`."""
    found = re.search(re.escape(before) + r"\s*([0-9.e+-]*[0-9])", text)
    assert found, f"'{before}' is not in:\n{text}"
    return float(found[1])


def test_01_costs_by_hand(shown):
    text = shown("01_declare_and_cost")
    # 12 layers, 12 heads of 64, keys and values, 2 bytes; MLPs of 2048; one norm per sublayer.
    kv = 12 * 2 * 768 * 2
    params = 12 * (4 * 768**2 + 3 * 768 * 2048 + 2 * 768) + 32_000 * 768 + 768
    row = next(line for line in text.splitlines() if line.startswith("transformer"))
    assert f"{params / 1e6:.1f} M" in row
    assert f"{kv:,} B" in row
    assert f"{kv * 32_768 / 2**20:.1f} MiB" in row
    assert "did you mean 'd_state'?" in text
    assert "torch was imported: False" in text


def test_02_steps_are_the_full_forward(shown):
    text = shown("02_forward_and_decode")
    assert number(text, "largest difference of logits:") < 2e-5  # measured 3e-6 in fp32
    assert "same most probable token everywhere: True" in text
    # 8 rows of 2: 2 heads of 64, state 128; 3 columns of 2 * 128 + 128 channels; fp32.
    assert f"{2 * 4 * (128 * 128 + 3 * 384):,} bytes" in text


def test_03_packed_and_padded_are_separate(shown):
    text = shown("03_pack_and_pad")
    for what in ("packed: outputs", "packed: states", "packed: gradients", "padded: outputs"):
        assert number(text, f"{what} differ by") < 2e-5  # measured 2e-6 in fp32
    assert number(text, "boundaries not told: outputs differ by") > 0.1


def test_04_recall_is_learned(shown):
    text = shown("04_train_from_python")
    assert "done after 100 steps and 102,400 tokens" in text
    assert number(text, "loss:") > 2.0
    assert number(text, "->") < 0.5
    assert number(text, "recall:") > 0.9
    assert "after 3 12 5 9 . . 3 comes 12" in text


def test_05_fusions_differ_in_cost_and_all_learn(shown):
    rows = [line for line in shown("05_compare_fusions").splitlines() if "->" in line]
    assert len(rows) == 10
    cost = {r[:16].strip(): re.findall(r"[\d,]*\d(?= |$)", r[16:])[:3] for r in rows}
    cost = {name: [int(n.replace(",", "")) for n in row] for name, row in cost.items()}
    n_params, flops, kv = ({k: v[i] for k, v in cost.items()} for i in range(3))
    assert n_params["mean"] - n_params["mean, joint"] == 2 * 64 * 64
    assert n_params["scaled add"] - n_params["mean"] == 2 * 2 * 64
    assert kv["cross-attention"] == 2 * kv["mean"] == 2 * 2 * 2 * 64 * 2
    assert kv["merge-attention"] == 3 * kv["mean"]
    assert n_params["gate"] - n_params["mean"] == 2 * (64 * 64 + 64)
    assert flops["merge-attention"] > flops["cross-attention"] > flops["gate"] > flops["mean"]
    assert flops["mean"] > flops["mean, joint"]
    for row in rows:
        first, last = row.split()[-3::2]
        assert float(first) > 4.0
        assert float(last) < 0.5

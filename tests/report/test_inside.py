import re

import pytest

from braidlm import report

from .making import config, losses, write_run, write_study
from .test_page import EVIL, _checked


def told(scale: float, step: int) -> dict:
    return {
        "layers": {
            "blocks.0.dt": 0.01 * scale * step,
            "blocks.0.decay": 0.9,
            "blocks.2.branches.0.rms": 3.0,
            "blocks.2.branches.1.rms": 1.0 * scale,
            "blocks.2.branches.0.dt": 0.5,
        },
        "grad_norm": {"mamba2": 2.0 * scale},
        "update_ratio": {"mamba2": 0.001, "norms": None},
    }


def metrics(scale: float) -> list[dict]:
    rows = losses(20, 2.0)
    for row in rows:
        if row["step"] in (1, 10, 20):
            row["telemetry"] = told(scale, row["step"])
    return rows


@pytest.fixture
def study(tmp_path):
    for seed, scale in enumerate((1.0, 3.0)):
        write_run(
            tmp_path / "a" / f"seed-{seed}", config("M-{M*}", seed=seed), metrics=metrics(scale)
        )
    write_run(tmp_path / "b" / "seed-0", config("M-M-"))
    write_study(tmp_path, ["a", "b"])
    return tmp_path


def test_rows_are_means_over_seeds_and_branches_become_shares(study):
    found = report.tables([study])["telemetry"]
    layers = {(row["place"], row["word"]): row["points"] for row in found["a"]["layers"]}
    assert layers["blocks.0", "dt"] == [[1, 0.02], [10, pytest.approx(0.2)], [20, 0.4]]
    share = layers["blocks.2.branches.1", "share"]
    assert share[0] == [1, pytest.approx((1 / 4 + 3 / 6) / 2)]
    assert ("blocks.2.branches.1", "rms") not in layers
    weights = {(row["place"], row["word"]): row["points"] for row in found["a"]["weights"]}
    assert weights == {
        ("mamba2", "grad_norm"): [[1, 4.0], [10, 4.0], [20, 4.0]],
        ("mamba2", "update_ratio"): [[1, 0.001], [10, 0.001], [20, 0.001]],
    }
    assert found["b"] == {"layers": [], "weights": []}


def test_the_page_shows_each_layer_with_its_curve(study, tmp_path):
    out = report.build([study], tmp_path / "r.html")
    page = _checked(out)
    text = " ".join(page.text)
    assert "Inside the training" in text
    assert "0.02 → 0.4" in text
    assert "0: Mamba-2" in text
    assert re.search("2, branch 1: [Aa]ttention", text)
    curves = [a for t, a in page.attributes if t == "svg" and a.get("class") == "spark"]
    assert len(curves) == 3 + 2 + 2
    drawn = re.search(
        r'label="from 0.02 to 0.4, steps 1 to 20"><path[^>]* d="([^"]+)"', out.read_text()
    )
    assert drawn
    assert drawn[1] == "M2 23L56.9 13.5L118 3"


def test_without_telemetry_there_is_no_such_section(tmp_path):
    page = _checked(report.build([write_run(tmp_path / "r")], tmp_path / "r.html"))
    assert "Inside the training" not in " ".join(page.text)


@pytest.mark.parametrize(
    "odd",
    [
        "text",
        [1],
        {"layers": 3, "grad_norm": None},
        {"layers": {"dt": 1.0, "blocks.x.rms": 0.0, EVIL: 2.0, "blocks.99.branches.7.rms": 1}},
        {"layers": {"blocks.0.dt": "x", "blocks.0.decay": float("nan")}, "update_ratio": {"": 1}},
    ],
)
def test_odd_telemetry_still_gives_a_page(tmp_path, odd):
    rows = [{"step": s, "loss": 1.0, "telemetry": odd} for s in (1, 2)]
    out = report.build([write_run(tmp_path / "r", metrics=rows)], tmp_path / "r.html")
    assert "<script>alert" not in out.read_text()
    _checked(out)

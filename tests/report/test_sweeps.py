"""Loss against learning rate: the parabola's minimum and its error, edges, and what diverged."""

import json
import math
import random
from pathlib import Path

import pytest

from braidlm.report import build, tables
from braidlm.report.load import load
from braidlm.report.parabola import minimum
from braidlm.report.stats import t95
from braidlm.report.sweeps import HELD_OUT, TRAINING, sweeps
from tests.report.making import config, lm, losses, write_run, write_study

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
SEEDS = (0, 1, 2)


class TestParabola:
    def test_an_exact_one_is_found_wherever_the_points_lie(self):
        for places in ((0.0, 1.0, 2.0), (-3.0, 0.5, 1.0, 4.0), (0.0, 0.1, 5.0, 6.0, 6.5)):
            points = [(x, {0: 2.0 + 0.7 * (x - 1.3) ** 2}) for x in places]
            found = minimum(points)
            assert found is not None
            assert found.x == pytest.approx(1.3)
            assert found.half_width is None

    def test_one_that_opens_downwards_has_none(self):
        assert minimum([(x, {0: -(x**2)}) for x in (-1.0, 0.0, 2.0)]) is None

    def test_a_seed_that_is_better_everywhere_moves_nothing_and_adds_no_error(self):
        points = [(x, {0: x**2, 1: x**2 + 5.0}) for x in (-2.0, -1.0, 0.0, 1.0)]
        found = minimum(points)
        assert found is not None
        assert (found.x, found.half_width) == (pytest.approx(0.0), pytest.approx(0.0, abs=1e-6))

    def test_only_seeds_that_are_everywhere_count(self):
        points = [(x, {0: x**2, 7: -99.0} if x else {0: x**2}) for x in (-1.0, 0.0, 1.0)]
        found = minimum(points)
        assert found is not None
        assert found.x == pytest.approx(0.0)
        assert minimum([(0.0, {0: 1.0}), (1.0, {1: 1.0}), (2.0, {0: 1.0})]) is None

    def test_noise_that_hides_the_curvature_leaves_no_interval(self):
        points = [(x, {0: 0.01 * x**2 + x % 2, 1: 0.01 * x**2 - x % 2}) for x in range(5)]
        found = minimum(points)
        assert found is None or found.half_width == math.inf

    def test_the_interval_holds_the_truth_about_as_often_as_it_says(self):
        """600 experiments of five rates and three seeds; 95 % is two standard errors of 0.9 %."""
        chance, held = random.Random(1), 0
        for _ in range(600):
            of_seed = [chance.gauss(0, 1.0) for _ in SEEDS]
            points = [
                (x, {s: (x - 0.4) ** 2 + of_seed[s] + chance.gauss(0, 0.3) for s in SEEDS})
                for x in (-2.0, -1.0, 0.0, 1.0, 2.0)
            ]
            found = minimum(points)
            assert found is not None
            assert found.half_width is not None
            held += abs(found.x - 0.4) <= found.half_width
        assert 0.93 < held / 600 < 0.98

    def test_the_first_order_error_by_hand(self):
        # x = -1, 0, 1: c1 = (y3 - y1) / 2, c2 = y1/2 - y2 + y3/2, minimum at -c1 / (2 c2).
        points = [(-1.0, {0: 1.1, 1: 0.9}), (0.0, {0: 0.0, 1: 0.0}), (1.0, {0: 0.9, 1: 1.1})]
        found = minimum(points)
        assert found is not None
        assert found.half_width is not None
        variance = 4 * 0.1**2 / 2 / 2  # squares left / degrees / seeds; the curvature is 1
        assert found.x == pytest.approx(0.0)
        assert found.half_width == pytest.approx(t95(2) * math.sqrt(variance / (4 * 2)))


def write_sweep(path: Path, held_out: dict[int, dict[float, float | None]]) -> Path:
    """A sweep by width and rate; None is a run whose loss became no number."""
    points = {}
    for width, by_rate in held_out.items():
        for lr, bits in by_rate.items():
            name = f"d{width}-lr-{lr:g}"
            points[name] = {"lr": lr, "width": width}
            for seed in (0, 1):
                recipe = config(seed=seed, d_model=width)
                folder = path / name / f"seed-{seed}"
                if bits is None:
                    error = "NonFiniteLossError: step 3: loss = nan"
                    write_run(folder, recipe, state="failed", error=error)
                else:
                    noise = 0.002 if (seed + round(math.log(lr))) % 2 else -0.002
                    write_run(folder, recipe, results=[lm(bits + noise)])
    return write_study(path, list(points), sweep=points, name="rates")


def bowl(best: float) -> dict[float, float | None]:
    return {lr: 2.0 + 0.1 * math.log(lr / best) ** 2 for lr in RATES}


def entries(path: Path) -> list[dict]:
    return sweeps(load([path]).arms)


def test_the_minimum_of_every_width_and_its_interval(tmp_path):
    path = write_sweep(tmp_path / "s", {64: bowl(1.2e-3), 32: bowl(7e-4)})
    wide, narrow = entries(path)
    assert (wide["width"], narrow["width"], wide["measure"]) == (64, 32, HELD_OUT)
    for entry, best in ((wide, 1.2e-3), (narrow, 7e-4)):
        assert entry["best"] == 1e-3
        found = entry["minimum"]
        assert found["lr"] == pytest.approx(best, rel=0.02)
        assert found["low"] < best < found["high"] < 1.2 * found["low"]
    assert "a parabola through 5 rates is lowest at 0.0012 (95 %: " in wide["verdict"]
    assert [row["loss"]["n_seeds"] for row in wide["rows"]] == [2] * 5


@pytest.mark.parametrize(
    ("changes", "edge"),
    [
        ({1e-4: 0.1}, "no lower rate was tried"),
        ({1e-2: 0.1}, "no higher rate was tried"),
        ({3e-3: None, 1e-2: None}, "the next higher rate, 0.003, diverged"),
        ({3e-4: None}, "the next lower rate, 0.0003, diverged"),
    ],
)
def test_a_best_rate_at_an_edge_is_said_to_be(tmp_path, changes, edge):
    (entry,) = entries(write_sweep(tmp_path / "s", {64: bowl(1e-3) | changes}))
    assert entry["minimum"] is None
    assert f"is at the edge: {edge}" in entry["verdict"]


def test_diverged_rates_are_counted_and_shown_and_the_fit_ends_before_them(tmp_path):
    (entry,) = entries(write_sweep(tmp_path / "s", {64: bowl(1e-3) | {1e-2: None}}))
    assert entry["rows"][-1] == {
        "lr": 1e-2, "loss": None, "n_seeds": 2, "n_diverged": 2, "n_unfinished": 0,
    }  # fmt: skip
    assert "a parabola through 4 rates" in entry["verdict"]
    (nothing,) = entries(write_sweep(tmp_path / "t", {64: dict.fromkeys(RATES)}))
    assert nothing["verdict"] == "No rate has a loss."
    assert nothing["best"] is None


def test_a_run_that_ended_above_its_first_loss_diverged(tmp_path):
    path = write_sweep(tmp_path / "s", {64: bowl(1e-3) | {1e-2: 50.0}})
    (entry,) = entries(path)
    assert (entry["rows"][-1]["n_diverged"], entry["rows"][-1]["loss"]) == (2, None)


def test_without_a_language_task_the_last_training_losses_count(tmp_path):
    path = tmp_path / "s"
    points = {}
    for lr in RATES:
        name = f"lr-{lr:g}"
        points[name] = {"lr": lr, "width": 64}
        rows = losses(100, 2.0 + math.log(lr / 1e-3) ** 2)
        write_run(path / name / "seed-0", config(), metrics=rows)
    write_study(path, list(points), sweep=points)
    (entry,) = entries(path)
    assert entry["measure"] == TRAINING
    late = [2.0 + 3.0 * s**-0.5 for s in range(91, 101)]
    assert entry["rows"][2]["loss"]["mean"] == pytest.approx(sum(late) / 10)
    assert entry["minimum"]["lr"] == pytest.approx(1e-3, rel=0.05)
    assert "one seed: no interval" in entry["verdict"]


def test_a_run_that_has_not_ended_is_unfinished(tmp_path):
    path = write_sweep(tmp_path / "s", {64: bowl(1e-3)})
    status = path / "d64-lr-0.003" / "seed-1" / "status.json"
    status.write_text(json.dumps({"state": "interrupted", "step": 3, "steps": 100, "error": None}))
    (entry,) = entries(path)
    assert entry["rows"][3]["n_unfinished"] == 1
    assert entry["rows"][3]["loss"]["n_seeds"] == 1


def test_the_page_shows_the_sweep_on_a_log_axis_with_one_line_per_width(tmp_path):
    path = write_sweep(tmp_path / "s", {64: bowl(1.2e-3), 32: bowl(7e-4) | {1e-2: None}})
    text = build([path], tmp_path / "page.html").read_text()
    assert "Learning rate (rates)" in text
    assert "Peak learning rate (log scale)" in text
    assert "width 64, rate 0.001: " in text
    figure = text.partition("Learning rate (rates)")[2].partition("</figure>")[0]
    assert figure.count(">×<") == 1
    assert figure.count("data-arm") == 0
    assert "Width 32: The best rate tried is 0.001" in text
    assert len(tables([path])["sweeps"]) == 2
    assert json.dumps(tables([path])["sweeps"], allow_nan=False)


@pytest.mark.parametrize("points", ["x", {"d64-lr-0.001": 3}, {"d64-lr-0.001": {"lr": -1}}])
def test_a_study_that_says_nonsense_of_a_sweep_is_still_a_study(tmp_path, points):
    path = write_sweep(tmp_path / "s", {64: bowl(1e-3)})
    study = json.loads((path / "study.json").read_text())
    (path / "study.json").write_text(json.dumps(study | {"sweep": points, "match": points}))
    assert tables([path])["sweeps"] == []


def test_what_was_resized_stands_below_the_arms_name(tmp_path):
    path = write_sweep(tmp_path / "s", {64: {1e-3: 2.0, 3e-3: 2.1}})
    study = json.loads((path / "study.json").read_text())
    rows = {"d64-lr-0.001": [{"field": "mixers.-.d_ff", "old": 64, "new": 72}]}
    study |= {"match": {"on": "params", "reference": "x", "changes": rows}}
    (path / "study.json").write_text(json.dumps(study))
    assert [arm["changes"] for arm in tables([path])["arms"]] == [["mixers.-.d_ff 64 → 72"], []]
    assert "resized: mixers.-.d_ff 64 → 72" in build([path], tmp_path / "p.html").read_text()

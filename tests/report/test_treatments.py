"""Before, after and against each other: what the report says of a study with bases."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from braidlm import report
from braidlm.errors import InputError
from braidlm.report.findings import findings
from tests.report.treating import BASES, EFFECTS, N_ITEMS, SEEDS, put, treated


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return treated(tmp_path_factory.mktemp("treated") / "study")


@pytest.fixture(scope="module")
def said(folder: Path) -> dict[str, Any]:
    return report.tables([folder])["treatments"][0]


def rows(said: dict[str, Any], task: str) -> dict[tuple[str, str], dict[str, Any]]:
    found = next(t for t in said["tasks"] if t["task"] == task)["comparisons"]
    return {(row["arm"], row["control"]): row for row in found}


def test_the_effects_that_were_put_in_are_found(said: dict[str, Any]):
    found = rows(said, "mqar-recall")
    for base in BASES:
        for arm in ("repeat", "after"):
            row = found[f"{base}-{arm}", f"{base}-plain"]
            assert row["value"] == pytest.approx(EFFECTS[arm], abs=0.02)
            assert (row["n_items"], row["seeds"]) == (N_ITEMS, [0, 1, 2])
            assert row["half_width"] < 0.05  # the seeds' luck of 0.1 is in both arms
    across = found["hybrid-after", "attention-plain"]
    assert across["value"] == pytest.approx(0.3 - 0.1, abs=0.15)
    assert across["half_width"] > 0.1  # two trainings that share no base


def test_before_and_after_are_paired_with_the_base_of_the_same_seed(said: dict[str, Any]):
    task = next(t for t in said["tasks"] if t["task"] == "mqar-recall")
    for base in BASES:
        cell = task["arms"][f"{base}-after"]
        assert cell["change"]["value"] == pytest.approx(0.5, abs=0.02)
        assert cell["after"]["mean"] - cell["before"]["mean"] == pytest.approx(0.5, abs=0.02)
        assert cell["change"]["half_width"] < 0.05
        assert cell["before"] == task["arms"][f"{base}-plain"]["before"]


def test_what_is_given_counts_once_before_and_is_paired_with_every_seed(tmp_path: Path):
    bases = [{"name": base, "label": base, "init": "x", "overrides": []} for base in BASES]
    path = treated(tmp_path / "study", bases=bases)
    for base in BASES:
        for seed in SEEDS[1:]:
            for file in (path / f"{base}-plain/seed-{seed}/init/results").iterdir():
                file.unlink()
    found = report.tables([path])["treatments"][0]
    task = next(t for t in found["tasks"] if t["task"] == "mqar-recall")
    cell = task["arms"]["hybrid-after"]
    assert tuple(cell["change"]["seeds"]) == SEEDS
    assert cell["before"]["n_seeds"] == 1
    difference = cell["after"]["mean"] - cell["before"]["mean"]
    assert cell["change"]["value"] == pytest.approx(difference)


def test_outcomes_come_first_and_each_family_is_corrected_for_its_own_number(said: dict[str, Any]):
    assert [(t["task"], t["is_outcome"]) for t in said["tasks"]] == [
        ("mqar-recall", True),
        ("lm-held-out", False),
    ]
    assert (said["n_outcomes"], said["n_others"]) == (5, 5)
    found = sorted(rows(said, "mqar-recall").values(), key=lambda row: row["p"])
    assert found[0]["p_holm"] == pytest.approx(min(1, 5 * found[0]["p"]))
    assert all(row["p_holm"] >= row["p"] for row in found)


def test_findings_are_computed_from_the_numbers(said: dict[str, Any]):
    first, *others = findings(said)
    assert first.startswith("5 comparisons were declared for the outcomes; ")
    text = next(s for s in others if "Hybrid, after − Hybrid, plain" in s)
    row = rows(said, "mqar-recall")["hybrid-after", "hybrid-plain"]
    assert f"+{row['value']:.3f}" in text
    assert text.endswith("3 seeds, 60 items: better.")
    assert "mqar-recall, accuracy" in text
    assert not any("lm-held-out" in s for s in others)


def test_more_loss_is_worse_and_no_outcome_named_makes_every_task_one(tmp_path: Path):
    said = report.tables([treated(tmp_path / "s", outcomes=[])])["treatments"][0]
    text = next(s for s in findings(said) if "lm-held-out" in s and "Hybrid, after − Hybrid" in s)
    assert "+0.03" in text
    assert text.endswith("worse.")
    assert (said["n_outcomes"], said["n_others"]) == (10, 0)


def test_an_outcome_may_be_another_metric(folder: Path, tmp_path: Path):
    other = shutil.copytree(folder, tmp_path / "s")
    for path in other.glob("*/seed-*/results/mqar-recall.json"):
        result = json.loads(path.read_text())
        result["items"]["columns"]["graded"] = {"value": "accuracy"}
        result["metrics"]["graded"] = result["metrics"]["accuracy"] | {"unit": "nats"}
        path.write_text(json.dumps(result))
    book = json.loads((other / "study.json").read_text())
    book["outcomes"] = ["mqar-recall:graded", "mqar-recall", "lm-gone"]
    (other / "study.json").write_text(json.dumps(book))
    said = report.tables([other])["treatments"][0]
    assert [(t["task"], t["metric"], t["is_outcome"]) for t in said["tasks"]] == [
        ("mqar-recall", "graded", True),
        ("mqar-recall", "accuracy", True),
        ("lm-held-out", "bits_per_byte", False),
    ]
    graded, plain = ([row["value"] for row in t["comparisons"]] for t in said["tasks"][:2])
    assert graded == plain
    assert said["tasks"][0]["arms"]["hybrid-after"]["before"] is None  # the base has no such metric
    assert said["n_outcomes"] == 10


def test_noise_is_not_told_apart_and_one_seed_says_what_it_is_about(tmp_path: Path):
    said = report.tables([treated(tmp_path / "s", seeds=(0,), noise=1.0)])["treatments"][0]
    text = next(s for s in findings(said) if "Hybrid, repeat" in s)
    assert text.endswith("cannot be told from no difference, for other items of this one training.")


def test_tokens_and_sizes_of_the_arms(said: dict[str, Any]):
    arm = next(a for a in said["arms"] if a["name"] == "hybrid-after")
    assert arm["tokens"] == {"base": 12800, "input": 25600, "loss": 20000, "unique": 9000}
    first, second = said["matching"]
    assert (first["on"], second["on"]) == ("reference", "cache")
    assert first["off_n_params"] == 0
    expected = second["cache_bytes"] / first["cache_bytes"] - 1
    assert second["off_cache_bytes"] == pytest.approx(expected)


def test_tokens_are_those_of_finished_runs(folder: Path, tmp_path: Path):
    other = shutil.copytree(folder, tmp_path / "s")
    failed = other / "hybrid-after" / "seed-1"
    status = json.loads((failed / "status.json").read_text())
    (failed / "status.json").write_text(json.dumps(status | {"state": "failed"}))
    steps = (failed / "metrics.jsonl").read_text().splitlines()
    (failed / "metrics.jsonl").write_text(steps[-1].replace("20000", "512"))
    said = report.tables([other])["treatments"][0]
    arm = next(a for a in said["arms"] if a["name"] == "hybrid-after")
    assert arm["tokens"]["input"] == 25600


def test_the_page_shows_it_and_is_safe(folder: Path, tmp_path: Path):
    book = json.loads((folder / "study.json").read_text())
    evil = shutil.copytree(folder, tmp_path / "evil")
    book["arms"][0]["label"] = "<script>x</script>"
    (evil / "study.json").write_text(json.dumps(book))
    page = report.build([evil], tmp_path / "r.html").read_text()
    assert 'id="treatments"' in page
    assert "<script>x" not in page
    assert "Forest plot" in page
    assert "within" in page
    assert "corrected among themselves" in page
    assert 'aria-label="Architectures"' in page


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"config": {"n_items": 7}}, "asked differently: task.config.n_items"),
        ({"items": "others"}, "asked differently: task.items"),
        ({"config": {"readers": 7}}, "asked differently: task.config.readers"),
        ({"config": {"reads": 2}, "items": "others"}, "task.config.reads"),
        ({"config": {"token_filter": {"n_rows": 5}}}, "task.config.token_filter"),
        (
            {"config": {"token_filter": {"n_rows": 5}}, "items": "others"},
            "asked differently: task.items",
        ),
    ],
)
def test_tasks_that_differ_are_not_compared_but_ways_of_reading_are(
    folder: Path, tmp_path: Path, change: dict[str, Any], note: str
):
    """With the entries that `tasks.asked` writes: `config`, `items`, and what the work says."""
    other = shutil.copytree(folder, tmp_path / "s")
    asked = {"config": {"kind": "mqar"}, "items": "these"}
    for path in other.glob("hybrid-*/seed-*/results/mqar-recall.json"):
        result = json.loads(path.read_text())
        is_other = "hybrid-after" in str(path)
        config = {**asked["config"], **change.get("config", {})} if is_other else asked["config"]
        result["task"] = asked | (change if is_other else {}) | {"config": config}
        path.write_text(json.dumps(result))
    row = rows(report.tables([other])["treatments"][0], "mqar-recall")[
        "hybrid-after", "hybrid-plain"
    ]
    if note.startswith("asked"):
        assert row["note"] == note
        assert "value" not in row
    else:
        assert row["note"] == f"asked differently: {note}"
        assert row["value"] == pytest.approx(0.3, abs=0.02)


def test_runs_that_did_not_end_and_lost_items_are_left_out_in_words(folder: Path, tmp_path: Path):
    other = shutil.copytree(folder, tmp_path / "s")
    run = other / "hybrid-after" / "seed-1"
    (run / "status.json").write_text('{"state": "failed", "step": 3, "steps": 9, "error": "x"}')
    for path in other.glob("attention-after/seed-*/results/mqar-recall.items.jsonl"):
        path.unlink()
    (other / "hybrid" / "seed-2" / "status.json").write_text('{"state": "failed", "error": "y"}')
    data = report.tables([other])
    found = rows(data["treatments"][0], "mqar-recall")
    assert found["hybrid-after", "hybrid-plain"]["seeds"] == [0, 2]
    assert found["attention-after", "attention-plain"]["note"] == "not kept item by item"
    assert any(row["arm"] == "Hybrid" and row["state"] == "failed" for row in data["problems"])
    report.build([other], tmp_path / "r.html")


def test_two_seeds_are_warned_of(folder: Path, tmp_path: Path):
    few = treated(tmp_path / "s", seeds=(0, 1))
    pages = [report.build([path], tmp_path / "r.html").read_text() for path in (few, folder)]
    assert ["up to 13 times in 100" in page for page in pages] == [True, False]


def test_a_study_without_bases_has_no_such_section(tmp_path: Path):
    from tests.report.making import lm, write_run, write_study

    write_run(tmp_path / "s" / "a" / "seed-0", results=[lm(2.0)])
    write_study(tmp_path / "s", ["a"])
    assert report.tables([tmp_path / "s"])["treatments"] == []
    assert "treatments-title" not in report.build([tmp_path / "s"], tmp_path / "r.html").read_text()


def test_a_damaged_list_of_comparisons_is_refused(tmp_path: Path):
    path = treated(tmp_path / "s", seeds=(0,), comparisons=["a"])
    with pytest.raises(InputError, match="'bases' and 'comparisons' lists of objects"):
        report.tables([path])


def test_unlike_items_are_no_pair(folder: Path, tmp_path: Path):
    other = shutil.copytree(folder, tmp_path / "s")
    for seed in (0, 1, 2):
        run = other / "hybrid-after" / f"seed-{seed}"
        rows_ = [{"id": f"x{i}", "accuracy": 0.5} for i in range(9)]
        column = {"value": "accuracy"}
        put(run, "mqar", "recall", "accuracy", rows_, "share", column, n_items=N_ITEMS)
    found = rows(report.tables([other])["treatments"][0], "mqar-recall")
    assert "not the same" in found["hybrid-after", "hybrid-plain"]["note"]
    assert np.isfinite(found["hybrid-repeat", "hybrid-plain"]["value"])

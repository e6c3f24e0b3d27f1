"""`braid compare`: what it says, what it means, and what it refuses."""

import json

import numpy as np
import pytest

from braidlm.cli.main import main
from braidlm.errors import InputError
from braidlm.report.run import UNASKED
from braidlm.report.versus import compare

from .making import config, lm, write, write_run, write_study
from .test_pairs import asked_run

HITS = list(np.random.default_rng(0).random(60).round(2))


def _worse(by: float) -> list[float]:
    """The same items with a little less on every second one."""
    return [hit - by * (i % 2) for i, hit in enumerate(HITS)]


@pytest.fixture
def two(tmp_path):
    return [asked_run(tmp_path / n, n, h) for n, h in (("a", HITS), ("b", _worse(0.1)))]


@pytest.fixture
def arms(tmp_path):
    """A study of two arms of three seeds."""
    for arm, by in (("good", 0.0), ("bad", 0.1)):
        for seed in range(3):
            hits = [hit + 0.01 * seed for hit in _worse(by)]
            asked_run(tmp_path / "s" / arm / f"seed-{seed}", arm, hits, seed=seed)
    write_study(tmp_path / "s", ["good", "bad"], seeds=[0, 1, 2])
    return tmp_path / "s"


@pytest.mark.parametrize("kind", sorted(UNASKED))
def test_what_is_of_no_task_is_not_compared(two, kind):
    """An analysis, a measured speed or an overlap of both runs lies beside what was asked."""
    plain = compare(*two)
    for run in two:
        other = lm(1.5, name="else") | {"kind": kind}
        write(run / "results" / f"{kind}-else.json", other)
    assert compare(*two) == plain
    with pytest.raises(InputError, match=f"no task '{kind}-else'"):
        compare(two[0], two[1], [f"{kind}-else"])


def test_two_runs_in_numbers_and_words(two):
    (found,) = compare(*two)
    assert (found["task"], found["metric"]) == ("mqar-recall", "accuracy")
    accuracy = found["metrics"]["accuracy"]
    assert accuracy["difference"] == pytest.approx(0.05)
    assert accuracy["half_width"] == pytest.approx(2.0 * 0.0504 / np.sqrt(60), rel=0.01)
    assert (accuracy["wins"], accuracy["ties"], accuracy["losses"]) == (30, 30, 0)
    assert found["sentence"].startswith("accuracy is ")
    assert ": a is better by 0.050 ± 0.013 (95 %); of 60 items a has the" in found["sentence"]
    assert "b on 0, and 30 are equal." in found["sentence"]
    assert "one training each" in found["meaning"]
    (swapped,) = compare(*reversed(two))
    assert swapped["metrics"]["accuracy"]["difference"] == pytest.approx(-0.05)
    assert "a is better by 0.050" in swapped["sentence"]


def test_what_cannot_be_told_apart_is_said_so(tmp_path):
    noise = [hit + (0.1 if i % 2 else -0.1) for i, hit in enumerate(HITS)]
    runs = [asked_run(tmp_path / n, n, h) for n, h in (("a", HITS), ("b", noise))]
    (found,) = compare(*runs)
    assert "is within error; of 60 items" in found["sentence"]
    assert "better" not in found["sentence"]


def test_arms_are_averaged_over_seeds_whose_spread_is_shown(arms):
    (found,) = compare(arms / "good", arms / "bad")
    accuracy = found["metrics"]["accuracy"]
    assert found["a"]["seeds"] == [0, 1, 2]
    assert accuracy["values_a"] == pytest.approx(np.mean(HITS) + 0.01 * np.arange(3))
    assert accuracy["seed_stderr_a"] == pytest.approx(0.01 / np.sqrt(3))
    assert accuracy["difference"] == pytest.approx(0.05)
    assert "by seed (3 and 3 seeds)" in found["meaning"]
    (mixed,) = compare(arms / "good" / "seed-0", arms / "bad")
    assert mixed["a"]["name"] == "good/seed-0"
    assert mixed["metrics"]["accuracy"]["seed_stderr_a"] is None
    assert "luck of the single training on the other side" in mixed["meaning"]


def test_a_lower_loss_is_better(tmp_path):
    """Results with items, of a metric that falls as models get better."""
    runs = []
    for name, hits in (("a", HITS), ("b", _worse(0.1))):
        path = asked_run(tmp_path / name, name, hits)
        file = path / "results" / "mqar-recall.json"
        text = file.read_text().replace(
            '"accuracy": {"value": "acc', '"answer_nll": {"value": "acc'
        )
        result = json.loads(text) | {"metric": "answer_nll"}
        result["metrics"]["answer_nll"] = result["metrics"]["accuracy"]
        file.write_text(json.dumps(result))
        runs.append(path)
    assert ": b is better by 0.050" in compare(*runs)[0]["sentence"]


def test_tasks_that_differ_are_refused_with_the_field(two):
    file = two[1] / "results" / "mqar-recall.json"
    result = json.loads(file.read_text())
    asked = {"config": {"n_items": 60}, "tokenizer": "x", "items": "same"}
    (two[0] / "results" / "mqar-recall.json").write_text(
        json.dumps(
            json.loads((two[0] / "results" / "mqar-recall.json").read_text()) | {"task": asked}
        )
    )
    for other, says in (
        ({"config": {"n_items": 59}}, "task.config.n_items = 60 and 59"),
        ({"tokenizer": "y"}, "task.tokenizer = 'x' and 'y'"),
        ({"items": "others"}, "the items themselves differ"),
    ):
        file.write_text(json.dumps(result | {"task": asked | other}))
        with pytest.raises(InputError, match=f"asked differently of .*/a and .*/b: {says}"):
            compare(*two)


def test_what_is_missing_is_named_with_the_command_that_makes_it(two, tmp_path):
    old = write_run(tmp_path / "old", config(name="old"), results=[lm(1.5)])
    with pytest.raises(InputError, match=r"a has no result lm-held-out: 'braid eval .*/a --task"):
        compare(two[0], old, ["lm"])
    with pytest.raises(InputError, match="old: lm-held-out was written without its items: 'braid"):
        compare(old, old, ["lm"])
    with pytest.raises(
        InputError, match=r"is of step-00000100, not of step-7: .* --checkpoint step-7' makes it"
    ):
        compare(*two, checkpoint="step-7")
    empty = write_run(tmp_path / "empty", config(name="empty"))
    with pytest.raises(InputError, match="empty has no result mqar-recall: 'braid eval"):
        compare(two[0], empty)
    with pytest.raises(InputError, match="empty has no result, and its recipe no task"):
        compare(empty, empty)
    with pytest.raises(InputError, match=r"no task 'recal' \(did you mean 'recall'\?\); allowed"):
        compare(two[0], two[1], ["recal"])


def test_what_is_no_run_is_refused(two, arms, tmp_path):
    with pytest.raises(InputError, match=r"is a study: give one of its arms, .*/bad and .*/good"):
        compare(arms, two[0])
    with pytest.raises(InputError, match="nowhere is neither a run"):
        compare(two[0], tmp_path / "nowhere")


def test_what_was_not_measured_alike_is_told(two):
    file = two[0] / "results" / "mqar-recall.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"dtype": "bf16", "step": 7}))
    assert compare(*two)[0]["cautions"] == [
        "dtype differs: bf16 and float32",
        "step differs: 100 and 7",
    ]


def test_the_command_prints_a_table_and_the_sentence(two, arms, capsys):
    assert main(["compare", str(two[0]), str(two[1])]) == 0
    head, row, sentence, meaning = capsys.readouterr().out.splitlines()
    assert head.split() == ["mqar-recall", "a", "b", "difference", "95", "%"]
    assert row.split()[:2] == ["*", "accuracy"]
    assert row.endswith("0.050  ± 0.013")
    assert sentence.startswith("accuracy is ")
    assert meaning.startswith("(paired t interval")
    assert main(["compare", str(arms / "good"), str(arms / "bad"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == compare(arms / "good", arms / "bad")
    assert main(["compare", str(arms / "good"), str(arms / "bad")]) == 0
    assert "± 0.006 " in capsys.readouterr().out
    assert main(["compare", str(two[0]), "nowhere"]) == 2

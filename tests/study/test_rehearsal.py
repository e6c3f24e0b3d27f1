"""A study at its smallest."""

from pathlib import Path

import pytest

from braidlm.cli.main import main
from braidlm.files import read_json
from braidlm.study import StudyConfig
from braidlm.study.rehearsal import rehearsed
from tests.study.making import RECIPE, book, states, write_study

TASKS = """
[[tasks]]
kind = "mqar"
name = "few"
n_items = 3
[[tasks]]
kind = "longtext"
n_documents = 30
lengths = [8]
"""
ARMS = {"long": ["train.steps=50"], "fewer": ["tasks.0.n_items=9"]}


def test_runs_are_short_and_all_else_stays(tmp_path: Path):
    recipe = RECIPE.replace("n_items = 4", "n_items = 40") + TASKS
    path = write_study(tmp_path, ARMS, recipe, seeds=[3, 5], require_matched=["training tokens"])
    config = StudyConfig.load(path)
    small = rehearsed(config, tmp_path)
    assert (small.name, small.seeds, small.require_matched) == ("study-rehearsal", (3,), ())
    for before, arm in zip(config.arms, small.arms, strict=True):
        whole, short = (c.recipe_of(a, 3, tmp_path) for c, a in ((config, before), (small, arm)))
        assert short.train == whole.train.model_copy(update={"steps": 2})
        assert (short.spec, short.data) == (whole.spec, whole.data)
        sizes = [task.model_dump() for task in short.tasks]
        assert [t.get("n_items", t.get("n_documents")) for t in sizes] == [4, 3, 4]
        assert sizes[2]["lengths"] == (8,)


def test_a_base_that_is_trained_is_short_too(tmp_path: Path):
    path = write_study(tmp_path, {"one": []})
    path.write_text(path.read_text() + '\n[[bases]]\nname = "b"\nrecipe = "recipe.toml"\n')
    small = rehearsed(StudyConfig.load(path), tmp_path)
    assert small.recipe_of(small.bases[0], 0, tmp_path).train.steps == 2
    given = small.bases[0].model_copy(update={"recipe": None, "init": "runs/x", "set": ()})
    small = rehearsed(small.model_copy(update={"bases": (given,)}), tmp_path)
    assert small.bases == (given,)


@pytest.mark.usefixtures("fake_runs")
def test_no_study_goes_on_in_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path, out = write_study(tmp_path, ARMS, seeds=[0, 1]), tmp_path / "out"
    command = ["study", str(path), "--out", str(out), "--quiet"]
    assert main([*command, "--rehearse"]) == 0
    assert states(out) == {"long/seed-0": "done", "fewer/seed-0": "done"}
    assert read_json(out / "long" / "seed-0" / "status.json")["step"] == 2
    assert book(out)["name"] == "study-rehearsal"
    assert main([*command, "--resume"]) == 2
    assert "'study-rehearsal', not 'study'" in capsys.readouterr().err


@pytest.mark.usefixtures("fake_runs")
def test_a_bad_recipe_is_refused_as_ever(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = write_study(tmp_path, {"one": []}, RECIPE.replace("n_items = 4", "n_item = 4"))
    command = ["study", str(path), "--out", str(tmp_path / "out"), "--rehearse"]
    assert main(command) == 2
    assert "n_items" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

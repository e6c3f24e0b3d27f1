"""What a continued study skips, runs again, allows and refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from braidlm.errors import InputError
from braidlm.study import run_study, runner
from braidlm.study.book import read_before
from tests.study.making import FAKE, RECIPE, book, states, write_study

pytestmark = pytest.mark.usefixtures("fake_runs")
ARMS: dict[str, list[str]] = {"a": [], "b": ['model.pattern="M-"']}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "PROGRAM", FAKE)
        run_study(write_study(folder, ARMS), folder / "out", is_silent=True)
    return folder


@pytest.fixture
def out(tmp_path: Path, finished: Path) -> Path:
    """A finished study; its file lies beside it."""
    return shutil.copytree(finished, tmp_path / "study") / "out"


def again(out: Path, **changes: Any) -> dict[str, str]:
    """Continue the study with a changed file."""
    study_file = write_study(out.parent, changes.pop("arms", ARMS), **changes)
    return run_study(study_file, out, resume=True, is_silent=True).states


def calls(out: Path) -> dict[str, int]:
    """How many processes each run has had."""
    return {
        "/".join(path.parts[-3:-1]): len(path.read_text().splitlines())
        for path in out.glob("*/*/calls.txt")
    }


def test_what_is_done_is_skipped_and_what_lacks_a_result_is_evaluated(out: Path):
    assert set(again(out).values()) == {"done"}
    assert calls(out) == {"a/seed-0": 1, "b/seed-0": 1}

    (out / "b" / "seed-0" / "results" / "mqar-recall.json").unlink()
    assert set(again(out).values()) == {"done"}
    assert calls(out) == {"a/seed-0": 1, "b/seed-0": 2}


def test_a_result_counts_only_if_it_answers_todays_task_at_the_last_step(out: Path):
    path = out / "a" / "seed-0" / "results" / "mqar-recall.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"step": 4}))
    again(out)
    assert calls(out) == {"a/seed-0": 2, "b/seed-0": 1}

    again(out, recipe=RECIPE.replace("n_items = 4", "n_items = 8"))
    assert calls(out) == {"a/seed-0": 3, "b/seed-0": 2}
    again(out, recipe=RECIPE.replace("n_items = 4", "n_items = 8"))
    assert calls(out) == {"a/seed-0": 3, "b/seed-0": 2}


def test_a_failed_run_is_tried_again(tmp_path: Path):
    study_file, out = write_study(tmp_path, {"raise": []}), tmp_path / "out"
    assert run_study(study_file, out, is_silent=True).states == {"raise/seed-0": "failed"}
    assert run_study(study_file, out, resume=True, is_silent=True).is_complete
    assert book(out)["runs"]["raise/seed-0"]["error"] is None


def test_seeds_and_arms_may_be_added_and_every_session_is_recorded(out: Path):
    first = book(out)
    again(out, seeds=[0, 3], arms={**ARMS, "c": ["train.steps=12"]})

    assert calls(out) == {f"{arm}/seed-{seed}": 1 for arm in "abc" for seed in (0, 3)}
    found = book(out)
    assert found["seeds"] == [0, 3]
    assert found["command"] == first["command"]
    assert len(found["sessions"]) == 2
    assert "training tokens" in first["matched"]
    assert "training tokens" not in found["matched"]


def test_threads_stay_those_of_the_first_session(out: Path, monkeypatch: pytest.MonkeyPatch):
    threads = book(out)["threads"]
    monkeypatch.setattr("braidlm.study.machine.count_cores", lambda: 64)
    study_file = write_study(out.parent, ARMS, seeds=[0, 1])
    run_study(study_file, out, resume=True, is_silent=True, jobs=1)

    assert book(out)["threads"] == threads
    assert book(out)["sessions"][-1]["jobs"] == 1
    config = json.loads((out / "a" / "seed-1" / "config.json").read_text())
    assert config["train"]["threads"] == threads


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"a": [], "b": ['model.pattern="M-M-"']}}, r"arm 'b' was made with \['model"),
        ({"arms": {"a": []}}, r"arm 'b' is no longer in the study file"),
        ({"set": ["train.lr=2e-2"]}, r"arm 'a' was made with \[\] and now has \['train.lr=2e-2'\]"),
        ({"seeds": [1]}, r"seed 0 is no longer in the study file"),
        ({"name": "another"}, r"holds the study 'study', not 'another'"),
        (
            {"recipe": RECIPE.replace("d_model = 8", "d_model = 16")},
            r"arm 'a': model\.d_model = 16, but its run in .*seed-0 was started with 8",
        ),
        ({"recipe": RECIPE.replace("steps = 6", "steps = 8")}, r"arm 'a': train\.steps = 8, but"),
        ({"recipe": RECIPE.replace("n_pairs = [2]", "n_pairs = [1]")}, r"n_pairs\.0 = 1, but"),
    ],
)
def test_a_changed_study_is_refused_by_what_changed(
    out: Path, changes: dict[str, Any], message: str
):
    before = (out / "study.json").read_bytes()
    with pytest.raises(InputError, match=message) as caught:
        again(out, **changes)
    assert "\n" not in str(caught.value)
    assert (out / "study.json").read_bytes() == before
    assert calls(out) == {"a/seed-0": 1, "b/seed-0": 1}


def test_what_changes_no_number_may_change(out: Path):
    recipe = RECIPE.replace("log_every = 1", "log_every = 3")
    again(out, recipe=recipe, description="said otherwise", jobs=1)
    assert calls(out) == {"a/seed-0": 1, "b/seed-0": 1}
    assert book(out)["description"] == "said otherwise"


def test_folders_of_something_else_are_refused(tmp_path: Path):
    study_file = write_study(tmp_path, ARMS)
    run_study(study_file, tmp_path / "out", is_silent=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    for out, resume, message in (
        (tmp_path / "out", False, "holds a study already; add --resume"),
        (other, False, "holds something else than a study"),
        (other, True, "holds something else than a study"),
        (other / "notes.txt", False, "is a file"),
    ):
        with pytest.raises(InputError, match=message):
            run_study(study_file, out, resume=resume, is_silent=True)
    (tmp_path / "out" / "study.json").write_text('{"schema_version": 7}')
    with pytest.raises(InputError, match="schema_version = 7; this version reads 1"):
        run_study(study_file, tmp_path / "out", resume=True, is_silent=True)


def test_resume_of_nothing_begins_the_study(tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".lock").touch()  # left by a start that was killed at once
    run_study(write_study(tmp_path, ARMS), out, resume=True, is_silent=True)
    assert set(states(out).values()) == {"done"}


def test_a_recipe_without_tasks_is_trained_and_not_evaluated(tmp_path: Path):
    recipe = RECIPE.partition("[[tasks]]")[0]
    out = tmp_path / "out"
    assert run_study(write_study(tmp_path, {"a": []}, recipe), out, is_silent=True).is_complete
    assert not list(out.glob("a/seed-0/results/*"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 5),
        ("arms", [{"name": "a"}]),
        ("arms", {}),
        ("seeds", [None]),
        ("runs", {"a/seed-0": {"pid": "x"}}),
        ("sessions", 3),
        ("threads", 0),
    ],
)
def test_a_book_of_another_form_is_refused_by_field(tmp_path: Path, field: str, value: object):
    whole = {"schema_version": 1, "name": "x", "arms": [], "seeds": [0], "runs": {}, "sessions": []}
    file = tmp_path / "study.json"
    file.write_text(json.dumps(whole))
    assert read_before(tmp_path, resume=True) == whole
    file.write_text(json.dumps(whole | {field: value}))
    with pytest.raises(InputError, match=rf"study\.json: '{field}' is not of the form"):
        read_before(tmp_path, resume=True)

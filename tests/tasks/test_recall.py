"""Recall from real documents through `braid eval`: built in, interrupted, compared, refused."""

import json
from collections.abc import Sequence

import numpy as np
import pytest

from braidlm.arch.tasks.builtin import BUILTIN, builtin
from braidlm.cli.main import main
from braidlm.errors import InputError
from braidlm.items import read_items
from braidlm.report.versus import compare
from braidlm.runs import Run
from braidlm.tasks import choose_tasks, evaluate, scoring, with_tasks
from braidlm.tasks.questions import QuestionWork
from tests.tasks.models import recipe, saved_run

WORDS = " ".join(f"word{i}" for i in range(30))


@pytest.fixture
def run(tmp_path) -> Run:
    return saved_run(tmp_path)


@pytest.fixture
def place(tmp_path) -> str:
    """The override that puts squad's data into the folder."""
    rows = [
        {"text": f"It is said that {name} was here. {WORDS}\n\nIt is said that", "value": name}
        for name in ("Ann", "Tom", "Eva", "Leo", "Ida")
    ]
    path = tmp_path / "squad.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"tasks.squad.path={path}"


def _squad(run: Run, place: str, more: Sequence[str] = (), **settings) -> dict:
    overrides = [place, "tasks.squad.max_new_tokens=6", *more]
    (found,) = evaluate(run.path, ["squad"], overrides=overrides, **settings)
    return found


def test_a_built_in_task_needs_no_recipe(run, place):
    found = _squad(run, place, lengths=[100, 150])
    assert (found["kind"], found["name"], found["n"], found["n_items"]) == (
        "recall",
        "squad",
        5,
        10,
    )
    assert [row["length"] for row in found["tables"]["by_length"]] == [100, 150]
    assert found["seq_len"] <= 150
    assert found["config"] == run.config  # the recipe itself did not change
    assert found["task"]["config"]["lengths"] == [100, 150]
    assert found["data"]["dataset"] == "squad"


@pytest.mark.parametrize("name", BUILTIN)
def test_every_built_in_task_is_found_by_its_name_and_joins_a_recipe(name, run):
    recipe, added = with_tasks(run, names=[name, "lm"])
    assert added == [f"{t.kind}-{t.name}" for t in builtin(name)]
    assert [t.kind for t in choose_tasks(recipe, [name, "lm"])] == ["lm", BUILTIN[name].task.kind]
    assert BUILTIN[name].line


def test_a_kind_names_all_of_it_and_a_declared_task_comes_first(run, tmp_path):
    recall = {entry.task.name for entry in BUILTIN.values() if entry.task.kind == "recall"}
    # The run's own recall task is called so: a name that is declared adds nothing.
    assert with_tasks(run, names=["recall"])[1] == []
    other = saved_run(tmp_path / "other", tasks=[])
    config, added = with_tasks(other, names=["recall", "squad"])
    assert {t.name for t in choose_tasks(config, ["recall"])} == recall
    assert len(added) == len(recall)


def test_an_interrupted_evaluation_goes_on(run, place, monkeypatch):
    whole = _squad(run, place, lengths=[100, 150])
    (run.results_dir / "recall-squad.json").unlink()
    monkeypatch.setattr(scoring, "TOKENS_AT_ONCE", 320)
    measured, counts = QuestionWork.score, []

    def score(work, model, items):
        if len(counts) == 2:
            raise KeyboardInterrupt
        counts.append(list(items))
        return measured(work, model, items)

    monkeypatch.setattr(QuestionWork, "score", score)
    with pytest.raises(KeyboardInterrupt):
        _squad(run, place, lengths=[100, 150])
    first = [item for batch in counts for item in batch]
    counts.clear()
    counts.append([])
    monkeypatch.setattr(QuestionWork, "score", lambda *a: counts.append(list(a[2])) or measured(*a))
    found = _squad(run, place, lengths=[100, 150])
    rest = [item for batch in counts for item in batch]
    assert sorted(first + rest) == list(range(10))
    rows = [row["id"] for row in read_items(run.results_dir, found)]
    assert rows == [f"{n}/squad.jsonl:{i}" for n in (100, 150) for i in range(1, 6)]
    for name, entry in whole["metrics"].items():
        assert found["metrics"][name]["value"] == pytest.approx(entry["value"], abs=1e-5)
        assert found["metrics"][name]["stderr"] == pytest.approx(entry["stderr"], abs=1e-5)
    assert not list(run.results_dir.glob("*partial*"))


def test_what_another_batch_size_left_is_not_read(run, place, monkeypatch):
    measured, calls = QuestionWork.score, []

    def score(work, model, items):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(list(items))
        return measured(work, model, items)

    monkeypatch.setattr(QuestionWork, "score", score)
    with pytest.raises(KeyboardInterrupt):
        _squad(run, place, batch_size=2)
    calls.clear()
    monkeypatch.setattr(QuestionWork, "score", lambda *a: calls.append(list(a[2])) or measured(*a))
    _squad(run, place, batch_size=3)
    assert sorted(item for batch in calls for item in batch) == list(range(5))
    assert sorted(map(len, calls)) == [2, 3]


def test_the_same_questions_from_another_place_are_the_same_result(run, place, tmp_path):
    kept: list[str] = []
    first = _squad(run, place)
    (tmp_path / "moved").mkdir()
    moved = (tmp_path / "squad.jsonl").rename(tmp_path / "moved" / "squad.jsonl")
    again = _squad(run, f"tasks.squad.path={moved}", kept=kept.append)
    assert (again, kept) == (first, ["recall-squad"])


def test_two_runs_are_compared_item_by_item(run, place, tmp_path):
    other = saved_run(tmp_path / "other")
    _squad(run, place, checkpoint="step-00000001")
    _squad(other, place)
    (found,) = compare(run.path, other.path, ["squad"])
    metrics = found["metrics"]
    assert set(metrics) == {"contains", "answer_nll", "without_context", "without_context_nll"}
    assert metrics["answer_nll"]["n_items"] == 5
    assert metrics["answer_nll"]["difference"] != 0


def test_a_task_that_fails_keeps_no_other_from_being_asked(run, place, capsys):
    words = ["--tasks", "lm,squad,mqar", "--set", place, "--set", "tasks.squad.lengths=[60]"]
    assert main(["eval", str(run.path), *words]) == 2
    shown = capsys.readouterr()
    assert "lm-held-out  step" in shown.out
    assert "mqar-recall  step" in shown.out
    [line] = shown.err.strip().splitlines()
    assert line.startswith("braid: recall-squad: task 'squad': length = 60 must be at least 6")
    assert sorted(r["kind"] for r in run.results()) == ["lm", "mqar"]
    with pytest.raises(InputError, match="length = 60"):
        evaluate(run.path, ["squad", "mqar"], overrides=[place, "tasks.squad.lengths=[60]"])


def test_what_cannot_be_asked_is_a_sentence_each_and_the_rest_is_asked(run, tmp_path, capsys):
    files = {
        "nq": "\n",  # no record
        "drop": '{"question": "q", "answers": ["a"]}\n',  # no text
        "squad": '{"text": "It is long. It is\\nIt is", "value": "long"}\n',  # for 30 tokens
    }
    words = ["--lengths", "30"]
    for name, text in files.items():
        (tmp_path / f"{name}.jsonl").write_text(text)
        words += ["--set", f"tasks.{name}.path={tmp_path / name}.jsonl"]
    words += ["--set", "tasks.fda.path=hf:./nowhere"]
    assert main(["eval", str(run.path), "--tasks", "nq,mqar,drop,squad,fda,lm", *words]) == 2
    shown = capsys.readouterr()
    assert {"lm-held-out", "mqar-recall"} == {
        line.split()[0] for line in shown.out.split("\n") if "step" in line
    }
    said = dict(
        line.removeprefix("braid: ").split(": ", 1) for line in shown.err.strip().split("\n")
    )
    assert "nq.jsonl holds no question" in said["recall-nq"]
    assert 'has no field "context"' in said["recall-drop"]
    assert "length = 30 must be at least" in said["recall-squad"]
    assert "'hf:./nowhere'" in said["recall-fda"]
    assert len(run.results()) == 2


def test_a_model_without_a_tokenizer_is_still_asked_symbols(tmp_path, place, capsys):
    data = recipe(tmp_path).to_dict()["data"] | {"tokenizer": str(tmp_path / "gone.json")}
    other = saved_run(tmp_path / "other", data=data)
    assert main(["eval", str(other.path), "--tasks", "squad,mqar", "--set", place]) == 2
    shown = capsys.readouterr()
    assert "mqar-recall  step" in shown.out
    [line] = shown.err.strip().splitlines()
    assert line.startswith("braid: recall-squad: tokenizer ")
    assert "gone.json cannot be read" in line


def test_a_checkpoint_that_cannot_be_loaded_is_said_once(run, capsys):
    (run.checkpoints_dir / "step-00000002" / "weights.safetensors").write_bytes(b"cut")
    assert main(["eval", str(run.path)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--tasks", "squda"], "did you mean 'squad'"),
        (["--tasks", "lm", "--lengths", "64"], "lengths = [64]: none of lm-held-out has lengths"),
        (["--tasks", "squad", "--lengths", "6x"], "--lengths 6x: must be numbers of tokens"),
        (["--tasks", "squad", "--lengths", "1"], "lengths: 1 must be at least 2 tokens"),
        (["--tasks", "squad", "--data", "nowhere"], "data nowhere must be a folder that exists"),
        (["--tasks", "lm", "--data", "."], "data .: none of lm-held-out asks of real documents"),
        (["--batch-size", "0"], "batch_size = 0: must be at least 1 item"),
        (["--tasks", "squad", "--set", "tasks.squad.path=nowhere.jsonl"], "does not exist"),
        (["--tasks", "squad", "--set", "tasks.squad.reads=3"], "reads = 3: input should be 1 or 2"),
    ],
)
def test_bad_words_are_one_sentence(run, words, says, capsys):
    assert main(["eval", str(run.path), *words]) == 2
    shown = capsys.readouterr()
    assert says in shown.err
    assert "Traceback" not in shown.err


def test_the_list_names_built_in_tasks_and_draws_a_named_one(run, place, capsys):
    assert main(["eval", str(run.path), "--list"]) == 0
    shown = capsys.readouterr().out
    for name, entry in BUILTIN.items():
        assert f"  {name} " in shown
        assert entry.line in shown
    words = ["--tasks", "squad", "--set", place, "--list", "--lengths", "90"]
    assert main(["eval", str(run.path), *words]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("recall-squad\n")
    assert "\n\nIt is said that -> " in shown


def test_a_folder_of_data_sets_serves_every_task_that_it_holds(run, place, tmp_path, capsys):
    """squad is there, nq is not: one sentence, the other is listed and asked all the same."""
    words = ["--tasks", "nq,squad", "--data", str(tmp_path), "--limit", "3"]
    says = f"braid: recall-nq: folder {tmp_path} holds no file of 'nq' (files: squad.jsonl"
    for mode in (["--list"], []):
        assert main(["eval", str(run.path), *words, *mode]) == 2
        shown = capsys.readouterr()
        assert shown.err.startswith(says)
        assert "recall-squad" in shown.out
        assert "recall-nq" not in shown.out


def test_a_recipe_without_tasks_says_what_can_be_asked(tmp_path):
    with pytest.raises(InputError, match=r"declares no tasks.* built in: squad"):
        choose_tasks(recipe(tmp_path, tasks=[]), None)


def test_the_same_questions_under_several_wordings(run, place):
    names = ["published", "labelled", "fenced"]
    found = _squad(
        run, place, lengths=[120, 160], more=[f"tasks.squad.templates={json.dumps(names)}"]
    )
    rows = read_items(run.results_dir, found)
    assert len(rows) == found["n_items"] == 30
    assert (found["n"], found["seq_len"] <= 160) == (5, True)
    assert [line["template"] for line in found["tables"]["by_template"]] == names
    (line,) = [x for x in found["tables"]["over_templates"] if x["metric"] == "answer_nll"]
    means = [x["answer_nll"] for x in found["tables"]["by_template"]]
    assert line["mean"] == pytest.approx(np.mean(means))
    assert line["spread"] == pytest.approx(np.std(means, ddof=1))
    assert line["stderr_over_items"] == found["metrics"]["answer_nll"]["stderr"]
    assert len(set(np.round(means, 6))) == 3
    assert found["metrics"]["template_spread"]["unit"] == "share"
    lengths = {(row["length"], row["template"]): row["tokens"] for row in rows}
    assert lengths[120, "labelled"] - lengths[120, "published"] == len("Text: Task: ")

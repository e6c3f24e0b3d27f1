"""Evaluations that are finished are not repeated; those that were interrupted go on."""

import json

import pytest

from braidlm.errors import InputError
from braidlm.items import read_items
from braidlm.runs import Run
from braidlm.tasks import asked as asking
from braidlm.tasks import evaluate, scoring
from braidlm.tasks.mqar import MQARWork
from tests.tasks.models import saved_run

BOOK = '[[tasks]]\nkind = "phonebook"\nlengths = [160]\nn_items = 3\n'


@pytest.fixture
def run(tmp_path) -> Run:
    return saved_run(tmp_path)


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """How many recall items each call of `score` was given."""
    counts: list[int] = []
    measured = MQARWork.score

    def score(work, model, items):
        counts.append(len(items))
        return measured(work, model, items)

    monkeypatch.setattr(MQARWork, "score", score)
    return counts


def _evaluate(run: Run, **settings) -> tuple[dict, list[str]]:
    kept: list[str] = []
    (found,) = evaluate(run.path, ["mqar"], kept=kept.append, **settings)
    return found, kept


def test_a_finished_task_is_not_repeated(run, asked):
    first, _ = _evaluate(run)
    written = (run.results_dir / "mqar-recall.json").read_bytes()
    again, kept = _evaluate(run)
    assert kept == ["mqar-recall"]
    assert again == first
    assert (run.results_dir / "mqar-recall.json").read_bytes() == written
    assert sum(asked) == 24
    forced, kept = _evaluate(run, force=True)
    assert kept == []
    assert sum(asked) == 48
    assert forced["metrics"] == first["metrics"]


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint": "step-00000001"},
        {"dtype": "bf16"},
        {"overrides": ["tasks.recall.n_items=11"]},
        {"overrides": ["tasks.recall.length=26"]},
    ],
    ids=str,
)
def test_what_would_come_out_otherwise_is_asked_again(run, change):
    _evaluate(run)
    found, kept = _evaluate(run, **change)
    assert kept == []
    assert json.loads((run.results_dir / "mqar-recall.json").read_text()) == found
    assert len(read_items(run.results_dir, found)) == found["n"]


def test_other_weights_code_or_items_are_asked_again(run, monkeypatch):
    _evaluate(run)
    path = run.checkpoints_dir / "step-00000002" / "manifest.json"
    manifest = path.read_text()
    sha = json.loads(manifest)["files"]["weights.safetensors"]["sha256"]
    path.write_text(manifest.replace(sha, "0" * 64))
    with pytest.raises(InputError, match=r"manifest\.json was altered"):
        _evaluate(run)
    path.write_text(manifest)
    assert _evaluate(run)[1] == ["mqar-recall"]
    monkeypatch.setattr(asking, "code_version", lambda: "another")
    assert _evaluate(run)[1] == []
    monkeypatch.undo()
    _evaluate(run)
    (run.results_dir / "mqar-recall.items.jsonl").write_text("")
    assert _evaluate(run)[1] == []


def test_an_interrupted_task_goes_on_where_it_stopped(run, monkeypatch):
    whole, _ = _evaluate(run)
    (run.results_dir / "mqar-recall.json").unlink()
    monkeypatch.setattr(scoring, "TOKENS_AT_ONCE", 24 * 5)  # batches of 5, 5, 2 per level
    measured, counts = MQARWork.score, []

    def score(work, model, items):
        if len(counts) == 4:
            raise KeyboardInterrupt
        counts.append(list(items))
        return measured(work, model, items)

    monkeypatch.setattr(MQARWork, "score", score)
    with pytest.raises(KeyboardInterrupt):
        _evaluate(run)
    partial = run.results_dir / ".mqar-recall.partial.jsonl"
    assert len(partial.read_text().splitlines()) == 1 + 4
    with open(partial, "a") as file:
        file.write('{"batch": 4, "rows": [')  # a line that was cut
    counts.clear()
    told: list[tuple[str, int, int]] = []
    found, _ = _evaluate(run, progress=lambda *row: told.append(row))
    assert counts == [[17, 18, 19, 20, 21], [22, 23]]
    assert [done for _, done, _ in told] == [5, 10, 12, 17, 22, 24]
    for name, entry in whole["metrics"].items():
        assert found["metrics"][name]["value"] == pytest.approx(entry["value"], abs=1e-6)
    assert found["ops"] == whole["ops"]
    assert not partial.exists()
    assert [row["id"] for row in read_items(run.results_dir, found)] == [
        f"{n}/{i}" for n in (2, 4) for i in range(12)
    ]


@pytest.mark.parametrize("left", ["", "{", '{"key": {"weights": "others"}}\n{"batch": 0}\n'])
def test_what_is_left_of_another_evaluation_is_not_read(run, asked, left):
    (run.results_dir / ".mqar-recall.partial.jsonl").write_text(left)
    _evaluate(run)
    assert sum(asked) == 24


def test_a_file_adds_tasks_that_are_asked_by_default(run, tmp_path):
    (tmp_path / "more.toml").write_text(BOOK)
    (found,) = evaluate(run.path, tasks_file=tmp_path / "more.toml")
    assert (found["kind"], found["name"], found["n"]) == ("phonebook", "lookup", 3)
    both = evaluate(run.path, ["mqar", "lookup"], tasks_file=tmp_path / "more.toml")
    assert [r["kind"] for r in both] == ["mqar", "phonebook"]
    (changed,) = evaluate(
        run.path, tasks_file=tmp_path / "more.toml", overrides=["tasks.lookup.n_items=2"]
    )
    assert changed["n"] == 2
    assert changed["task"]["config"]["n_items"] == 2
    assert changed["config"] == run.config


@pytest.mark.parametrize(
    ("text", "overrides", "says"),
    [
        ("x = 1\n", [], r"more.toml: must hold \[\[tasks\]\] tables and nothing else"),
        (BOOK + 'names = "x"\n', [], "unknown field 'names' .did you mean 'name'"),
        ('[[tasks]]\nkind = "mqar"\n', [], "two mqar tasks are named 'recall'"),
        (BOOK, ["train.steps=4"], "a trained run's tasks can be changed, nothing else"),
        (BOOK, ["tasks.lookup.n_items=0"], "n_items = 0"),
        ("", [], r"more.toml: must hold \[\[tasks\]\]"),
    ],
)
def test_what_cannot_be_asked_is_refused(run, tmp_path, text, overrides, says):
    (tmp_path / "more.toml").write_text(text)
    with pytest.raises(InputError, match=says):
        evaluate(run.path, tasks_file=tmp_path / "more.toml", overrides=overrides)
    assert not list(run.results_dir.iterdir())


def test_the_nearest_task_is_named(run):
    with pytest.raises(InputError, match=r"'recal' is not in the recipe \(did you mean 'recall'\?"):
        evaluate(run.path, ["recal"])

"""`braid eval`."""

import argparse
import json

import pytest

from braidlm.cli import eval as command
from braidlm.errors import InputError
from braidlm.runs import Run
from tests.tasks.models import saved_run


@pytest.fixture
def run(tmp_path) -> Run:
    return saved_run(tmp_path)


def _braid(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["eval", *arguments])
    return args.run(args)


def test_a_card_of_each_task(run, capsys):
    assert _braid(str(run.path)) == 0
    shown = capsys.readouterr().out
    (lm, mqar) = run.results()
    assert f"bits_per_byte  {lm['value']:.4f} ± {lm['stderr']:.4f} (n = 5)" in shown
    assert f"accuracy       {mqar['value']:.4f}" in shown
    assert "chance         0.0625 share" in shown
    assert "step-00000002, cpu fp32" in shown


def test_json_is_what_was_written(run, capsys):
    assert _braid(str(run.path), "--tasks", "mqar", "--json") == 0
    assert json.loads(capsys.readouterr().out) == run.results()
    assert [r["kind"] for r in run.results()] == ["mqar"]


def test_a_limited_look_says_so(run, capsys):
    assert _braid(str(run.path), "--limit", "1", "--checkpoint", "step-00000001") == 0
    shown = capsys.readouterr().out
    assert "nothing was written" in shown
    assert "step-00000001" in shown
    assert run.results() == []


def test_the_list_draws_examples(run, capsys):
    assert _braid(str(run.path), "--list") == 0
    shown = capsys.readouterr().out
    assert "lm-held-out\ndocument " in shown
    assert "mqar-recall\n2 pairs in 24 tokens: k" in shown
    assert _braid(str(run.path), "--list", "--json", "--tasks", "lm") == 0
    assert [t["n_documents"] for t in json.loads(capsys.readouterr().out)] == [5]


def test_an_unknown_task_is_refused(run):
    with pytest.raises(InputError, match="task 'nope' is not in the recipe"):
        _braid(str(run.path), "--tasks", "nope")
    with pytest.raises(InputError, match="task 'nope' is not in the recipe"):
        _braid(str(run.path), "--tasks", "nope", "--list")


def test_what_is_measured_already_is_kept_and_said(run, capsys):
    _braid(str(run.path), "--tasks", "mqar")
    first = capsys.readouterr()
    assert first.err == ""
    _braid(str(run.path), "--tasks", "mqar")
    again = capsys.readouterr()
    assert again.out == first.out
    assert again.err.startswith("mqar-recall: measured already with these items, weights and code")
    _braid(str(run.path), "--tasks", "mqar", "--force")
    assert capsys.readouterr().err == ""


def test_tasks_are_added_and_changed(run, tmp_path, capsys):
    book = '[[tasks]]\nkind = "phonebook"\nlengths = [160]\n'
    (tmp_path / "more.toml").write_text(book)
    words = ["--tasks-file", str(tmp_path / "more.toml"), "--set", "tasks.lookup.n_items=2"]
    assert _braid(str(run.path), *words) == 0
    assert "phonebook-lookup" in (shown := capsys.readouterr().out)
    assert "(n = 2) share" in shown
    assert _braid(str(run.path), *words, "--list") == 0
    assert "phonebook-lookup\nstandard order, " in capsys.readouterr().out

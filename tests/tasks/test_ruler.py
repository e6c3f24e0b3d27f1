"""RULER asked of models that read by rule, at a depth alone, or not at all."""

import json

import pytest

from braidlm.arch.tasks import RulerTask
from braidlm.cli.main import main
from braidlm.errors import InputError
from braidlm.tasks import describe, run_task
from tests.data.ruler import oracle
from tests.tasks.models import BYTES, Speaker, recipe, saved_run

ENDS = (
    "provided text is",
    "provided text are",
    "they are: ",
    "number is:",
    "words are:",
    "list are:",
)
LENGTHS = {"vt": 2000, "cwe": 2000}


class Reader(Speaker):
    """Answers by rule; `forgets` says of which values it knows nothing."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forgets(self, prompt: str, answer: str) -> bool:
        return False

    def hears(self, text: str) -> bool:
        return any(mark in text.rsplit("\n", 1)[-1] for mark in ENDS)

    def say(self, text: str) -> str:
        end = max(text.rfind(mark) + len(mark) for mark in ENDS if mark in text)
        prompt, said = text[:end], text[end:].lstrip()
        answer = oracle.answer(self.name, prompt)
        if self.forgets(prompt, answer):
            return "?"
        rest = answer[len(said) :]
        return rest if text[end:] else f" {rest}"


class Near(Reader):
    """Knows nothing of the first half of a text."""

    def forgets(self, prompt: str, answer: str) -> bool:
        return prompt.index(answer) < len(prompt) / 2


class Silent(Speaker):
    def say(self, text: str) -> str:
        return "no 123"


@pytest.fixture(scope="module")
def essay(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("essay") / "essay.txt"
    path.write_text(" ".join(f"This is sentence {i} of an essay." for i in range(200)))
    return str(path)


def task(name: str, essay: str, **fields) -> RulerTask:
    known = {"n_items": 2, "lengths": (LENGTHS.get(name, 1000),), "haystack": essay}
    return RulerTask.model_validate({"task": name} | known | fields)


@pytest.mark.parametrize("name", ["niah_single_1", "niah_multiquery", "niah_city", "vt", "fwe"])
def test_a_reader_finds_all_and_the_silent_nothing(name, essay, tmp_path):
    asked = task(name, essay)
    found = run_task(asked, Reader(name), BYTES, recipe(tmp_path))
    assert (found["metric"], found["value"], found["n"]) == ("string_match_all", 1.0, 2)
    assert found["seq_len"] <= asked.lengths[0]
    assert found["data"]["task"] == name
    (line,) = found["tables"]["by_length"]
    assert line["string_match_all"] == 1.0
    if name.startswith("niah"):
        assert all(row["recall"] == 1.0 for row in found["tables"]["by_needle"])
        assert sum(row["n"] for row in found["tables"]["by_needle"]) == 2 * (
            4 if name == "niah_multiquery" else 1
        )
    silent = run_task(asked, Silent(), BYTES, recipe(tmp_path))
    assert silent["value"] == 0


def test_depths_make_a_map(essay, tmp_path):
    asked = task("niah_city", essay, depths=(0.0, 25.0, 75.0, 100.0), lengths=(500, 900), n_items=2)
    found = run_task(asked, Near("niah_city"), BYTES, recipe(tmp_path))
    rows = found["tables"]["by_needle"]
    assert [(row["length"], row["depth"]) for row in rows] == [
        (n, d) for n in (500, 900) for d in (0.0, 25.0, 75.0, 100.0)
    ]
    assert [row["recall"] for row in rows] == [0, 0, 1, 1] * 2
    assert found["value"] == 0.5
    assert [row["string_match_all"] for row in found["tables"]["by_depth"]] == [0, 0, 1, 1]
    assert len(found["tables"]["by_group"]) == 8


def test_depths_that_are_drawn_are_put_into_bins(essay, tmp_path):
    asked = task("niah_single_1", essay, n_items=12, depth_bins=2)
    found = run_task(asked, Near("niah_single_1"), BYTES, recipe(tmp_path))
    first, second = found["tables"]["by_needle"]
    assert (first["depth"], second["depth"]) == (25.0, 75.0)
    assert first["n"] + second["n"] == 12
    assert first["recall"] < 0.5 < second["recall"]


def test_documents_are_asked_by_any_answer(tmp_path):
    row = {"title": "x", "context": "The tower is red.", "question": "Which colour?"}
    lines = [row | {"answers": ["red", "a red one"]}, row | {"answers": ["blue", "red"]}]
    (tmp_path / "squad.jsonl").write_text("\n".join(map(json.dumps, lines)))

    class Red(Speaker):
        def say(self, text: str) -> str:
            return " red"[len(text.partition("Answer:")[2]) :]

    asked = task("qa_1", "", documents=str(tmp_path / "squad.jsonl"), haystack="python-docs")
    found = run_task(asked, Red(), BYTES, recipe(tmp_path))
    assert (found["metric"], found["value"]) == ("string_match_part", 1.0)
    assert "by_needle" not in found["tables"]
    assert found["data"]["documents"] == asked.documents


def test_an_example_is_drawn(essay, tmp_path):
    text = describe(task("niah_single_2", essay), recipe(tmp_path), BYTES)
    assert "special magic number" in text
    assert " -> " in text


def test_a_length_that_is_too_short_is_one_sentence(essay, tmp_path):
    asked = task("niah_single_2", essay, lengths=(256,))
    with pytest.raises(InputError, match=r"task 'needle': length = 256: too short for niah_sin.*"):
        run_task(asked, Silent(), BYTES, recipe(tmp_path))


def test_the_command_asks_a_built_in_one_and_refuses_a_short_one(tmp_path, capsys):
    run = saved_run(tmp_path)
    words = ["eval", str(run.path), "--tasks", "ruler_niah_single_1", "--limit", "1"]
    assert main([*words, "--lengths", "700"]) == 0
    assert "ruler_niah_single_1" in capsys.readouterr().out
    assert main([*words, "--lengths", "300"]) == 2
    shown = capsys.readouterr().err
    assert "length = 300: too short for niah_single_1" in shown
    assert "Traceback" not in shown

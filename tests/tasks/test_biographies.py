"""Facts asked of a model that knows, of one that reads, and of one that does neither."""

from __future__ import annotations

import json
from typing import Any

import pytest

from braidlm.arch import Recipe
from braidlm.arch.biographies import BiographiesSource, Telling
from braidlm.arch.tasks import BiographiesTask
from braidlm.cli.main import main
from braidlm.data.biographies.attributes import ATTRIBUTES, CHANCE
from braidlm.data.biographies.items import items_of
from braidlm.data.biographies.told import Teller
from braidlm.data.contamination import check_overlap
from braidlm.errors import InputError
from braidlm.tasks import describe, run_task
from tests.tasks.models import BYTES, Speaker, Uniform, recipe, saved_run

PEOPLE = {"kind": "biographies", "n_people": 20, "n_biographies": 2}


class Knower(Speaker):
    """Answers the items of a task; a reader does it only where the answer stands in the text."""

    reach = 40

    def __init__(self, task: BiographiesTask, config: Recipe, reads: bool = False) -> None:
        super().__init__()
        self.reads = reads
        self.answers = {i.asked.prompt: i.asked.answer for i in items_of(task, config.data)}

    def say(self, text: str) -> str:
        for prompt, answer in self.answers.items():
            before, found, said = text.rpartition(prompt)
            if found and (answer in before or not self.reads):
                return f" {answer}."[len(said) :]
        return ""


def with_people(tmp_path, **changes: Any) -> Recipe:
    return recipe(tmp_path, data={"seq_len": 64, "sources": [PEOPLE | changes]}, tasks=[])


def test_who_knows_is_right_out_of_the_weights_and_who_reads_is_not(tmp_path):
    config = with_people(tmp_path)
    task = BiographiesTask(n_items=2, forms=("others", "new", "question"))
    found = run_task(task, Knower(task, config), BYTES, config)
    assert (found["metric"], found["value"], found["n"]) == ("recall_from_weights", 1.0, 2)
    assert (found["memory"], found["chance"]) == ("weights", CHANCE)
    assert found["n_items"] == 2 * len(ATTRIBUTES) * 3
    seen = {row["form"]: row["seen"] for row in found["tables"]["by_group"]}
    assert seen == {"others": "of other people", "new": "of nobody", "question": "of nobody"}
    names = [row["attribute"] for row in found["tables"]["by_attribute"]]
    assert names == [attribute.name for attribute in ATTRIBUTES]
    assert run_task(task, Knower(task, config, reads=True), BYTES, config)["value"] == 0
    assert "without_context" not in found["metrics"]


def test_who_reads_is_right_in_context_alone(tmp_path):
    config = with_people(tmp_path)
    task = BiographiesTask(memory="context", n_items=1, forms=("new",), n_biographies=(1, 2))
    assert task.name == "facts_in_context"
    found = run_task(task, Knower(task, config, reads=True), BYTES, config)
    assert (found["metric"], found["value"]) == ("recall_in_context", 1.0)
    assert (found["memory"], found["metrics"]["without_context"]["value"]) == ("context", 0)
    assert [row["biographies"] for row in found["tables"]["by_biographies"]] == [1, 2]
    assert run_task(task, Uniform(), BYTES, config)["value"] == 0


def test_a_person_s_answers_are_one_cluster(tmp_path):
    """One of two people known: the error is that of two people, not of twelve facts."""
    config, task = with_people(tmp_path), BiographiesTask(n_items=2, forms=("new",))
    half = Knower(task, config)
    known = {i.asked.person.name for i in items_of(task, config.data)[:6]}
    half.answers = {p: a for p, a in half.answers.items() if any(name in p for name in known)}
    found = run_task(task, half, BYTES, config)
    assert (found["value"], found["n"]) == (0.5, 2)
    assert found["stderr"] == pytest.approx(0.5)


def test_the_answer_is_the_whole_value(tmp_path):
    class Longer(Knower):
        def say(self, text: str) -> str:
            said = super().say(text)
            return said.replace(".", "ish.") if said else ""

    config, task = with_people(tmp_path), BiographiesTask(n_items=1, forms=("new",))
    assert run_task(task, Longer(task, config), BYTES, config)["value"] == 0


def test_whom_training_asks_about_is_not_asked(tmp_path):
    config = with_people(tmp_path, questions=0.5)
    [source] = config.data.sources
    assert isinstance(source, BiographiesSource)
    is_asked = Teller(source).is_asked(0.5)
    task = BiographiesTask(forms=("question", "new_question"))
    items = items_of(task, config.data)
    people = {item.asked.person.number for item in items}
    assert people == {number for number in range(20) if not is_asked[number]}
    assert {(i.asked.form, i.group["seen"]) for i in items} == {
        ("question", "of other people"),
        ("new_question", "of nobody"),
    }
    fewer = {
        i.asked.person.number for i in items_of(task.model_copy(update={"n_items": 3}), config.data)
    }
    assert len(fewer) == 3
    assert fewer < people


def test_arms_that_were_told_differently_are_asked_the_same(tmp_path):
    """One form against many: the pairs of a comparison are the same questions."""
    task = BiographiesTask(forms=("new", "question", "new_question"))
    arms = [{}, {"n_biographies": 8, "naming": "always", "order": "fixed"}, {"n_forms": 2}]
    first, *others = (items_of(task, with_people(tmp_path, **arm).data) for arm in arms)
    assert len(first) == 20 * len(ATTRIBUTES) * 3
    assert all(other == first for other in others)


def test_in_context_the_biography_tells_the_fact_in_another_form(tmp_path):
    config = with_people(tmp_path)
    trained = {Teller(Telling(n_people=20)).world.person(i).name for i in range(20)}
    task = BiographiesTask(memory="context", n_items=5, forms=("told", "others", "new"))
    for item in items_of(task, config.data):
        asked = item.asked
        assert asked.answer in item.context
        assert asked.person.name not in trained
        if asked.form == "told":
            told = asked.prompt.replace(asked.person.name, "")
            assert asked.person.name in item.context
            assert told.split(" ")[-1] in item.context
        else:
            assert asked.prompt not in item.context


def test_what_is_read_twice_is_the_same_text_and_the_same_question(tmp_path):
    data = recipe(tmp_path).data
    once, twice = (
        items_of(BiographiesTask(memory="context", n_items=3, n_biographies=(2,), reads=n), data)
        for n in (1, 2)
    )
    assert [item.asked for item in once] == [item.asked for item in twice]
    assert [f"{item.context}\n\n{item.context}" for item in once] == [i.context for i in twice]


def test_people_of_a_folder_are_asked_about(tmp_path, capsys):
    out = tmp_path / "people"
    words = ["paraphrase", "--method", "biographies", "--out", str(out), "--seed", "5"]
    assert main([*words, "--quiet", "--set", "n_people=9"]) == 0
    config, task = recipe(tmp_path), BiographiesTask(folder=str(out), forms=("recited", "new"))
    found = items_of(task, config.data)
    world = Teller(Telling(n_people=9, world_seed=5)).world
    assert {i.asked.person for i in found} == {world.person(i) for i in range(9)}
    lines = (out / "pairs.jsonl").read_text().splitlines(keepends=True)
    (out / "pairs.jsonl").write_text("".join(lines[4:8]))  # of person 1 alone
    assert {i.asked.person.number for i in items_of(task, config.data)} == {1}
    (out / "pairs.jsonl").write_text(lines[0].replace("person/0", "person/9"))
    with pytest.raises(InputError, match="id 'person/9#0' must name one of the 9 people"):
        items_of(task, config.data)
    manifest = json.loads((out / "manifest.json").read_text()) | {"method": "rules"}
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="was made by the method 'rules', must be 'biographies'"):
        items_of(task, config.data)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"memory": "context", "forms": ["recited"]}, "forms: 'recited' needs memory = 'weights'"),
        ({"reads": 2}, "reads = 2: only with memory = 'context'"),
        ({"n_biographies": [2]}, r"n_biographies = \[2\]: only with memory = 'context'"),
        ({"memory": "context", "n_biographies": [0]}, "must be at least 1"),
        ({"forms": ["new", "new"]}, "every value may stand there once"),
        ({"source": "a", "folder": "b"}, "folder = 'b': give it or source = 'a'"),
        ({"forms": ["old"]}, "forms"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, says):
    with pytest.raises(InputError, match=says):
        BiographiesTask.of({"kind": "biographies"} | fields)


def test_a_task_that_cannot_be_asked_says_why(tmp_path):
    def refused(says: str, config: Recipe, **fields: Any) -> None:
        with pytest.raises(InputError, match=says):
            items_of(BiographiesTask(**fields), config.data)

    plain, config = recipe(tmp_path), with_people(tmp_path)
    refused("task 'facts_from_weights': memory = 'weights': nothing says who was trained on", plain)
    refused("source = 'x' is no source of biographies; allowed: biographies", config, source="x")
    refused("'x' is no source of biographies; allowed: none is declared", plain, source="x")
    refused("holds no manifest.json", config, folder=str(tmp_path))
    refused(
        "forms: 'others': the biographies leave no such form to ask in",
        with_people(tmp_path, n_forms=2),
        forms=("others",),
    )
    both = {"seq_len": 64, "sources": [PEOPLE, PEOPLE | {"name": "more"}]}
    refused(
        "must name one of the sources of biographies: biographies, more",
        recipe(tmp_path, data=both, tasks=[]),
    )
    assert items_of(BiographiesTask(memory="context", n_items=1), plain.data)
    everybody = with_people(tmp_path, n_people=2, questions=0.99)
    refused("nobody is left to ask about", everybody)


def test_the_command_keeps_the_two_apart(tmp_path, capsys):
    run = saved_run(tmp_path, data={"seq_len": 64, "sources": [PEOPLE]}, tasks=[])
    words = ["eval", str(run.path), "--tasks", "facts_from_weights,facts_in_context"]
    sets = [f"--set=tasks.{name}.n_items=1" for name in ("facts_from_weights", "facts_in_context")]
    assert main([*words, *sets, "--list"]) == 0
    shown = capsys.readouterr().out
    assert "biographies-facts_from_weights" in shown
    assert "biographies-facts_in_context" in shown
    assert main([*words, *sets]) == 0
    for name, metric in (
        ("from_weights", "recall_from_weights"),
        ("in_context", "recall_in_context"),
    ):
        result = json.loads((run.results_dir / f"biographies-facts_{name}.json").read_text())
        assert result["metric"] == metric
    assert " -> " in describe(BiographiesTask(memory="context"), recipe(tmp_path), BYTES)


def test_a_world_that_was_trained_on_is_found_in_text(tmp_path):
    """The overlap with training text is looked for as for any other task."""
    task = BiographiesTask(memory="context", n_items=2)
    told = [item.context for item in items_of(task, recipe(tmp_path).data)]
    (tmp_path / "told").mkdir()
    for i, text in enumerate(sorted(set(told))[:1]):
        (tmp_path / "told" / f"{i}.txt").write_text(text)
    source = {"kind": "text", "path": str(tmp_path / "told")}
    data = {"seq_len": 64, "held_out": 0.0, "sources": [source]}
    config = recipe(tmp_path, data=data, tasks=[task.model_dump()])
    [found] = check_overlap(config, duplicates=False)["tasks"]
    assert (found["n_items"], found["n_found"]) == (24, 12)

"""Pairs that are made of a recall task's data set, in SQuAD's form or another."""

import json

import pytest

from braidlm.arch import Recipe
from braidlm.arch.experiment import DataConfig
from braidlm.arch.pairs import PairsSource
from braidlm.arch.tasks import RecallTask
from braidlm.data.prepare import build, open_text
from braidlm.data.recall import passages, prompts
from braidlm.data.shard_build import shard_key
from braidlm.data.streams import RowMixture
from braidlm.errors import InputError
from braidlm.tasks.recall import recall_work

from .test_pairs import T, learnt_and_read, rows

PASSAGES = [f"Passage {i} tells that {name} was born in {1800 + i}." for i, name in enumerate(
    ["Ann", "Tom", "Eva", "Leo", "Ida", "Max", "Zoe", "Jan", "Amy", "Kai", "Uma", "Ben"]
)]  # fmt: skip


def write_squad(path, passages=PASSAGES):
    """Two questions about each passage, in SQuAD's fields, and one without an answer."""
    records = []
    for passage in passages:
        name, year = passage.split()[4], passage.split()[-1][:-1]
        for asked, answers in (("Who?", [name]), ("When?", [year, year, f"in {year}"])):
            answers = {"text": answers, "answer_start": [passage.index(answers[0])]}
            records.append({"context": passage, "question": asked, "answers": answers})
    records.append({"context": "Nothing.", "question": "What?", "answers": {"text": []}})
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def squad_data(tmp_path, seq_len=128, held_out=0.5, **fields):
    path = write_squad(tmp_path / "squad.jsonl")
    source = PairsSource.of({"path": str(path), "dataset": "squad_qa", **fields})
    return DataConfig(
        sources=(source,), seq_len=seq_len, held_out=held_out, cache_dir=str(tmp_path / "s")
    )


def test_a_data_set_gives_the_prompt_of_its_task_and_the_answer_after_it(tmp_path):
    data = squad_data(tmp_path, held_out=0.0)
    assert data.sources[0].name == "squad_qa"
    stream, packed = rows(data)
    found = {prompt for row in packed for prompt, _ in learnt_and_read(row, stream)}
    task = RecallTask.of({"dataset": "squad_qa", "path": source_of(data).path})
    asked = {prompt: p.answers[0] for p, _, prompt in prompts(task, T)}
    assert len(asked) == 24
    assert found == set(asked)
    said = {bytes(a[:-1]).decode() for row in packed for _, a in learnt_and_read(row, stream)}
    assert said == {f" {answer}" for answer in asked.values()}
    assert f"{PASSAGES[3]}\n\nQuestion: When?\nAnswer:" in found


@pytest.mark.parametrize("dataset", ["squad_qa", "fda"])
def test_no_document_that_is_learnt_is_asked_about(tmp_path, dataset):
    data = squad_data(tmp_path, held_out=0.4)
    if dataset == "fda":
        records = [
            {"doc_id": f"K{i // 3}", "key": "k", "text": f"Report {i}: v{i}.\nk:", "value": f"v{i}"}
            for i in range(36)
        ]
        (tmp_path / "squad.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        source = PairsSource.of({"path": str(tmp_path / "squad.jsonl"), "dataset": "fda"})
        data = data.model_copy(update={"sources": (source,)})
    source = source_of(data)
    shards = open_text(data, source.name)
    task = RecallTask.of({"dataset": dataset, "path": source.path, "held_out": 0.4})
    everything = {p.id: p.cluster for p in passages(task.model_copy(update={"held_out": 0.0}))}
    learnt = {everything[i] for i in shards.train.ids}
    asked = {p.cluster for p in passages(task)}
    assert learnt
    assert asked
    assert not learnt & asked
    assert learnt | asked == set(everything.values()) == {everything[i] for i in everything}
    fewer = {p.cluster for p in passages(task.model_copy(update={"held_out": 0.2}))}
    assert fewer < asked or not fewer


def test_a_long_document_is_cut_with_the_answer_inside(tmp_path):
    long = [f"{'word ' * 60}{passage} {'more ' * 60}" for passage in PASSAGES]
    data = squad_data(tmp_path, seq_len=100, held_out=0.0, length=100)
    write_squad(tmp_path / "squad.jsonl", [" ".join(p.split()) for p in PASSAGES])
    records = [json.loads(line) for line in (tmp_path / "squad.jsonl").read_text().splitlines()]
    for i, record in enumerate(records[:24]):
        record["context"] = long[i // 2]
    (tmp_path / "squad.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    stream, packed = rows(data)
    found = [pair for row in packed for pair in learnt_and_read(row, stream)]
    assert len(found) == 24
    for prompt, answer in found:
        document = prompt.partition("\n\nQuestion")[0]
        assert bytes(answer[:-1]).decode().strip() in document
        assert 80 < 1 + len(prompt) + len(answer) <= 100
    with pytest.raises(InputError, match="24 of 24 pairs are longer than seq_len = 100"):
        RowMixture(squad_data_of(data, length=0))
    other = squad_data_of(data, length=90)
    assert shard_key(source_of(other), T, 0.0) != shard_key(source_of(data), T, 0.0)


def source_of(data) -> PairsSource:
    [source] = data.sources
    assert isinstance(source, PairsSource)
    return source


def squad_data_of(data, **fields):
    source = source_of(data)
    return data.model_copy(update={"sources": (source.model_copy(update=fields),)})


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"path": "x", "length": 100}, "length = 100: needs a dataset"),
        ({"path": "x", "reads": 2}, "reads = 2: needs a dataset"),
        ({"dataset": "squad_qa", "prompt": "q"}, "prompt = 'q': goes with no dataset"),
        ({"dataset": "squda"}, "dataset = 'squda'"),
        ({}, "path"),
    ],
)
def test_fields_of_records_and_of_data_sets_are_told_apart(fields, says):
    with pytest.raises(InputError, match=says):
        PairsSource.of(fields)
    assert PairsSource.of({"dataset": "squad_qa"}).path == "hf:rajpurkar/squad"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"answers": None}, 'line 2: field "answers" must be a list of texts'),
        ({"answers": {"text": "x"}}, 'line 2: field "answers" must be a list of texts'),
        ({"question": 4}, 'line 2: field "question" must be text'),
    ],
)
def test_a_record_of_another_form_is_named(tmp_path, change, says):
    data = squad_data(tmp_path)
    lines = (tmp_path / "squad.jsonl").read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | change)
    (tmp_path / "squad.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match=says):
        build(data)


def recipe_of(tmp_path, task, **data):
    config = squad_data(tmp_path, **data).model_dump(mode="json")
    task = {"kind": "recall", "dataset": "squad_qa", "path": config["sources"][0]["path"]} | task
    model = {"pattern": "M-", "d_model": 32, "vocab_size": 264}
    return Recipe.from_dict({"model": model, "data": config, "tasks": [task]})


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_a_recipe_that_asks_about_what_it_learns_is_refused(tmp_path, share):
    says = rf"task 'squad_qa' and source 'squad_qa' read the same .* task\.held_out = {share}"
    with pytest.raises(InputError, match=says):
        recipe_of(tmp_path, {"held_out": share})
    assert recipe_of(tmp_path, {"held_out": 0.5}).tasks[0].name == "squad_qa"
    assert recipe_of(tmp_path, {"path": "elsewhere.jsonl"}).tasks[0].name == "squad_qa"


def test_a_task_for_which_nothing_is_held_out_says_so(tmp_path):
    path = str(write_squad(tmp_path / "squad.jsonl"))
    task = RecallTask.of({"dataset": "squad_qa", "path": path, "held_out": 1e-9})
    with pytest.raises(InputError, match="is held out by held_out = 1e-09: raise it"):
        passages(task)


def test_held_out_pairs_of_your_own_are_asked_as_they_are(tmp_path):
    path = tmp_path / "mine.jsonl"
    records = [{"prompt": f"q{i % 40}: ", "answer": f"a{i}"} for i in range(80)]
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    source = PairsSource(path=str(path))
    data = squad_data(tmp_path, held_out=0.3).model_copy(update={"sources": (source,)})
    shards = open_text(data, "pairs")
    task = RecallTask.of({"dataset": "pairs", "path": str(path), "held_out": 0.3})
    found = list(prompts(task, T))
    assert {p.id for p, _, _ in found} == set(shards.held_out.ids)
    assert {(prompt, p.answers[0]) for p, _, prompt in found} <= {
        (r["prompt"], r["answer"]) for r in records
    }
    by_id = {f"mine.jsonl:{i + 1}": r["prompt"] for i, r in enumerate(records)}
    assert not {by_id[i] for i in shards.train.ids} & {prompt for _, _, prompt in found}
    config = data.model_dump(mode="json")
    model = {"pattern": "M-", "d_model": 32, "vocab_size": 264}
    tasks = [{"kind": "recall", "dataset": "pairs", "path": str(path)}]
    with pytest.raises(InputError, match="task 'pairs' and source 'pairs' read the same documents"):
        Recipe.from_dict({"model": model, "data": config, "tasks": tasks})


def test_a_prompt_without_a_document_is_not_asked_twice(tmp_path):
    (tmp_path / "mine.jsonl").write_text(json.dumps({"prompt": "2+2=", "answer": "4"}) + "\n")
    task = RecallTask.of({"dataset": "pairs", "path": str(tmp_path / "mine.jsonl")})
    recipe = recipe_of(tmp_path, {"held_out": 0.5})
    work = recall_work(task, T, recipe)
    assert "without_context" not in work.units
    assert next(iter(work.units)) == "exact"
    (tmp_path / "mine.jsonl").write_text(json.dumps({"prompt": "2+2=", "answer": " "}) + "\n")
    with pytest.raises(InputError, match=r"mine\.jsonl, line 1: field \"answer\" is empty"):
        recall_work(task, T, recipe)

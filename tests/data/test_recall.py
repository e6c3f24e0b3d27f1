"""Records of recall data sets as passages with a question, and their prompts."""

import json
from typing import get_args

import pytest

from braidlm.arch.tasks import RecallTask
from braidlm.arch.tasks.recall import PUBLISHED, RecallSet
from braidlm.data.contamination import _items_of
from braidlm.data.passages import DATASETS, Passage
from braidlm.data.recall import passages, prompts
from braidlm.data.tokenizer import ByteTokenizer
from braidlm.errors import InputError

from .conftest import REAL_DATA

BYTES = ByteTokenizer()
WORDS = " ".join(f"word{i}" for i in range(60))
REPORTS = [
    {
        "doc_id": f"K{i // 2}",
        "key": "measurand",
        "text": f"Report {i // 2}. {WORDS} Measurand: Cortisol{i} {WORDS}\nMeasurand:",
        "value": f"CORTISOL{i}",
    }
    for i in range(6)
]


@pytest.fixture
def reports(tmp_path):
    path = tmp_path / "fda.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in REPORTS))
    return path


def _task(path, **fields) -> RecallTask:
    return RecallTask.of({"dataset": "fda", "path": str(path), "max_new_tokens": 8} | fields)


def test_every_declared_data_set_is_read():
    assert set(DATASETS) == set(get_args(RecallSet)) == set(PUBLISHED)


def test_the_name_and_the_place_are_those_of_the_data_set():
    task = RecallTask.of({"dataset": "fda"})
    assert (task.name, task.path) == ("fda", "hf:hazyresearch/based-fda")
    assert RecallTask.of({"dataset": "fda", "name": "x", "path": "y"}).name == "x"
    with pytest.raises(InputError, match=r"dataset = 'fad'"):
        RecallTask.of({"dataset": "fad"})


def test_a_record_is_parted_and_joined_again(reports):
    found = passages(_task(reports))
    assert [p.cluster for p in found] == ["K0", "K0", "K1", "K1", "K2", "K2"]
    for passage, record in zip(found, REPORTS, strict=True):
        assert passage.prompt(passage.document) == record["text"]
        assert (passage.question, passage.answers) == ("Measurand:", (record["value"],))
        assert not passage.document.endswith("\n")


def test_the_document_is_read_twice_and_the_question_comes_first():
    passage = Passage("1", "All of it.", "\n\n", "Key:", ("v",), "c")
    assert passage.prompt("All of it.", 2) == "All of it.\nAll of it.\n\nKey:"
    assert passage.prompt("All.", 1, True) == "Key:\nAll.\n\nKey:"
    assert passage.prompt("All.", 2, True) == "Key:\nAll.\nAll.\n\nKey:"


@pytest.mark.parametrize(
    "fields", [{}, {"reads": 2}, {"reads": 2, "question_first": True}], ids=str
)
def test_every_length_asks_the_same_and_keeps_the_answer(reports, fields):
    task = _task(reports, lengths=[200, 300], **fields)
    found = list(prompts(task, BYTES))
    ids = [p.id for p in passages(task)]
    assert [(p.id, length) for p, length, _ in found] == [(i, n) for n in (200, 300) for i in ids]
    for passage, length, prompt in found:
        assert length is not None
        assert length - 60 < 1 + len(BYTES.encode(prompt)) + 8 <= length
        assert prompt.lower().count(passage.answers[0].lower()) == task.reads
        assert prompt.endswith("\nMeasurand:")
        assert prompt.startswith("Information about Measurand. ") == task.question_first
    assert found == list(prompts(task, BYTES))


def test_fewer_items_are_some_of_more(reports):
    some = [p.id for p in passages(_task(reports, n_items=3))]
    assert len(some) == 3
    assert {p.id for p in passages(_task(reports, n_items=2))} < set(some)


def test_what_cannot_be_read_names_the_task_the_file_or_the_length(tmp_path, reports):
    with pytest.raises(InputError, match=r"task 'fda': length = 25 must be at least 29 tokens"):
        list(prompts(_task(reports, lengths=[25]), BYTES))
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match=r"task 'fda': .*empty\.jsonl holds no question"):
        passages(_task(tmp_path / "empty.jsonl"))
    (tmp_path / "flat.jsonl").write_text('{"doc_id": "a", "text": "one line", "value": "x"}\n')
    with pytest.raises(InputError, match=r"flat\.jsonl, line 1: 'text' must be a document, a line"):
        passages(_task(tmp_path / "flat.jsonl"))
    (tmp_path / "other.jsonl").write_text('{"text": "a\\nb"}\n')
    with pytest.raises(InputError, match=r'other\.jsonl, line 1 has no field "value"'):
        passages(_task(tmp_path / "other.jsonl"))
    with pytest.raises(InputError, match="nowhere does not exist"):
        passages(_task(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"lengths = \[9, 9\]: every value may stand there once"):
        _task(reports, lengths=[9, 9])


def test_the_least_length_that_is_named_is_enough(reports):
    with pytest.raises(InputError) as told:
        list(prompts(_task(reports, lengths=[25], n_items=1), BYTES))
    least = int(str(told.value).split("at least ")[1].split()[0])
    assert len(list(prompts(_task(reports, lengths=[least], n_items=1), BYTES))) == 1
    with pytest.raises(InputError):
        list(prompts(_task(reports, lengths=[least - 1], n_items=1), BYTES))


def test_overlap_with_the_training_text_is_looked_for(reports):
    data = None
    items = list(_items_of(_task(reports), data))  # pyright: ignore[reportArgumentType]
    assert items[1].texts[1] == "Measurand: CORTISOL1"
    assert items[1].texts[0].startswith("Report 0. word0")


def test_a_web_page_ends_where_the_list_of_keys_begins(tmp_path):
    page = f"Junior Bonner (1972) {WORDS} Director: Sam Peckinpah, Year: 1972 amctv.com."
    keys = "Summary of information above...\ncategory: Feature\ncountry: USA\nyear:"
    rows = [
        {"doc_id": "0484", "file_name": "0484.htm", "key": "year", "value": "1972"}
        | {"text": f"{page}\n\n{keys}"},
        {"doc_id": "0485", "key": "year", "value": "1972", "text": f"{page}\nyear:"},
    ]
    path = tmp_path / "swde.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = passages(_task(path, dataset="swde"))
    assert (first.document, first.link, first.question) == (page, "\n\n", keys)
    assert (first.cluster, first.answers) == ("0484", ("1972",))
    assert (second.document, second.question) == (page, "year:")
    asked = first.prompt("Page.", 2, True)  # as Arora et al. 2024 (arXiv 2407.05483) say it
    assert asked == f"Information about Year. Page.\nPage.\n\n{keys}"
    task = _task(path, dataset="swde", lengths=[200], n_items=1)
    [(_, _, prompt)] = prompts(task, BYTES)
    assert prompt.endswith(f"\n\n{keys}")
    assert "1972" in prompt.removesuffix(keys)
    assert 150 < 9 + len(prompt) <= 200


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real data sets are not here")
@pytest.mark.parametrize(
    ("name", "file", "n"), [("squad", "squad_cloze", 4486), ("fda", "fda_kv", 1100)]
)
def test_real_files(name, file, n):
    path = REAL_DATA / f"recall/{file}.jsonl.gz"
    task = RecallTask.of({"dataset": name, "path": str(path)})
    found = passages(task)
    assert len(found) == n
    assert all(p.answers[0] in p.document for p in found)
    short = RecallTask.of({"dataset": name, "path": str(path), "n_items": 20, "lengths": [700]})
    for passage, _, prompt in prompts(short, BYTES):
        assert passage.answers[0] in prompt.removesuffix(passage.question)
        assert 49 + len(prompt.encode()) <= 700

"""Questions among documents: records, order, distractors, length."""

import json
from typing import Any

import pytest

from braidlm.arch.tasks import MultiDocTask
from braidlm.data.corpora import Record
from braidlm.data.multidoc import Asked, Document, arranged, hotpotqa, natural_questions
from braidlm.data.surround import questions_of, surrounded
from braidlm.data.tokenizer import ByteTokenizer
from braidlm.errors import InputError

from .conftest import REAL_DATA

BYTES = ByteTokenizer()
N = 12
ROWS = [
    {
        "question": f"who built tower {i}",
        "answers": [f"Builder{i:02d}", f"Mister {i:02d}"],
        "title": f"Tower {i}",
        "passage": f"The tower of\n number {i} was the work of Builder{i:02d}. " + "So it is. " * i,
    }
    for i in range(N)
]
HOTPOT = {
    "_id": "5a",
    "question": "which came first",
    "answer": "no",
    "supporting_facts": [["B", 0], ["D", 1]],
    "context": [[t, [f"{t} is.", f" {t} was not."]] for t in "ABCDE"],
}


def _write(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def task(tmp_path):
    path = _write(tmp_path / "nq.jsonl", ROWS)

    def of(**fields) -> MultiDocTask:
        fields = {"path": path, "max_new_tokens": 8} | fields
        return MultiDocTask.of(fields)

    return of


def _record(fields) -> Record:
    return Record("a", "a.jsonl, line 1", fields)


def _nq(fields) -> Asked:
    found = natural_questions(_record(fields))
    assert found is not None
    return found


def test_the_prompt_is_the_published_one():
    asked = Asked("1", "who did", ("x",), (Document("First", "one"), Document("", "two")), (0,))
    task = (
        "Write a high-quality answer for the given question using only the provided search results "
        "(some of which might be irrelevant)."
    )
    shown = "Document [1](Title: First) one\nDocument [2] two"
    bare = "Question: who did\nAnswer:"
    assert asked.prompt(asked.documents) == f"{task}\n\n{shown}\n\n{bare}"
    first = f"{task}\n\nQuestion: who did\n\n{shown}\n{shown}\n\n{bare}"
    assert asked.prompt(asked.documents, 2, True) == first
    assert asked.bare == bare


def test_the_three_forms_of_a_record_are_one_question():
    plain = _nq(ROWS[3])
    assert plain.documents == (
        Document(
            "Tower 3",
            "The tower of number 3 was the work of Builder03. So it is. So it is. So it is.",
        ),
    )
    ctxs = [
        {"title": "Tower 9", "text": "another", "isgold": False},
        {"title": "Tower 3", "text": ROWS[3]["passage"], "isgold": True},
    ]
    found = _nq({"question": "q", "answers": ["mister 99", "builder03"], "ctxs": ctxs})
    assert (found.gold, found.documents[1]) == ((1,), plain.documents[0])
    assert found.answers == ("builder03", "mister 99")  # the one that stands there first
    assert found.cluster == plain.cluster
    based = {"context": "c", "question": "It was", "orig_question": "what was it", "answers": ["a"]}
    assert (_nq(based).question, _nq(based).documents) == ("what was it", (Document("", "c"),))
    assert natural_questions(_record({**ROWS[3], "answers": []})) is None


def test_hotpotqa_is_read_as_published_and_as_columns():
    plain = hotpotqa(_record(HOTPOT))
    assert plain.gold == (1, 3)
    assert plain.documents[1] == Document("B", "B is. B was not.")
    columns = {
        "context": {"title": list("ABCDE"), "sentences": [s for _, s in HOTPOT["context"]]},
        "supporting_facts": {"title": ["B", "D"], "sent_id": [0, 1]},
    }
    assert hotpotqa(_record(HOTPOT | columns)) == plain


def _of(fields: dict[str, Any]) -> Any:
    return hotpotqa if "answer" in fields else natural_questions


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"answers": ["a"], "passage": "p"}, 'has no field "question"'),
        ({"question": "q", "answers": ["a"]}, 'has no field "context"'),
        ({"question": "q", "answers": ["a"], "ctxs": "x"}, '"ctxs" must be a list of objects'),
        ({"question": "q", "answers": ["a"], "ctxs": []}, '"ctxs" must have one isgold, not 0'),
        ({"question": "q", "answer": "a", "context": []}, 'has no field "supporting_facts"'),
        (HOTPOT | {"context": [["A"]]}, "must be as HotpotQA has them"),
        (HOTPOT | {"supporting_facts": [["Z", 0]]}, 'no title of "supporting_facts" is in'),
    ],
    ids=str,
)
def test_what_lacks_a_field_is_named(fields, says):
    with pytest.raises(InputError) as told:
        _of(fields)(_record(fields))
    assert str(told.value).startswith("a.jsonl, line 1")
    assert says in str(told.value)


def test_documents_with_the_answer_stand_together():
    asked = hotpotqa(_record(HOTPOT))
    others = [Document(t, t) for t in "xyz"]
    titles = ["".join(d.title for d in arranged(asked, others, place)) for place in (0, 1, 3)]
    assert titles == ["BDxyz", "xBDyz", "xyzBD"]


def test_the_answer_moves_and_all_else_stays(task):
    found = list(surrounded(task(n_documents=[3, 6], depths=[0, 50, 100]), BYTES))
    assert len(found) == 2 * 3 * N
    levels = [(s.group["documents"], s.group["depth"]) for s in found[::N]]
    assert levels == [(3, 0), (3, 50), (3, 100), (6, 0), (6, 50), (6, 100)]
    mine = [s for s in found if s.asked.id == "nq.jsonl:5"]
    [gold] = mine[0].asked.documents
    places = [s.documents.index(gold) for s in mine]
    assert places == [0, 1, 2, 0, 2, 5]
    assert [len(s.documents) for s in mine] == [3] * 3 + [6] * 3
    others = [[d for d in s.documents if d != gold] for s in mine]
    assert others[0] == others[1] == others[2] == others[3][:2]
    assert others[3] == others[5]
    for s in found:
        told = [d for d in s.documents if any(a in d.text for a in s.asked.answers)]
        assert len(told) == 1
        assert len(set(s.documents)) == len(s.documents)
    assert found == list(surrounded(task(n_documents=[3, 6], depths=[0, 50, 100]), BYTES))


def test_documents_that_hold_an_answer_are_no_distractors(tmp_path):
    rows = [{**row, "answers": ["BUILDER0"]} for row in ROWS]
    path = _write(tmp_path / "nq.jsonl", rows)
    found = list(surrounded(MultiDocTask.of({"path": path, "n_documents": [2]}), BYTES))
    assert all(
        sum("Builder0" in d.text for d in s.documents) == ("Builder0" in s.asked.documents[0].text)
        for s in found
    )
    with pytest.raises(InputError, match=r"n_documents = \[3\]: must be at most 2: only 1 of"):
        list(surrounded(MultiDocTask.of({"path": path, "n_documents": [3]}), BYTES))


def test_without_depths_the_place_is_drawn_evenly(task):
    found = list(surrounded(task(n_documents=[3]), BYTES))
    places = [s.documents.index(s.asked.documents[0]) for s in found]
    assert set(places) == {0, 1, 2}
    assert "depth" not in found[0].group


def test_a_length_is_filled_with_documents(task):
    made = task(lengths=[700, 1500], depths=[0, 100], reads=2)
    for s in surrounded(made, BYTES):
        prompt = s.asked.prompt(s.documents, 2)
        size = 1 + len(BYTES.encode(prompt)) + 8
        length = s.group["length"]
        assert isinstance(length, int)
        assert length - 2 * 220 < size <= length
        place = s.documents.index(s.asked.documents[0])
        assert place == (0 if s.group["depth"] == 0 else len(s.documents) - 1)
    with pytest.raises(InputError) as told:
        list(surrounded(task(lengths=[50], n_items=1), BYTES))
    least = int(str(told.value).split("at least ")[1].split()[0])
    # That is what the first question needs: alone it fits, one token less does not hold it.
    assert len(list(surrounded(task(lengths=[least], n_items=1), BYTES))) == 1
    with pytest.raises(InputError):
        list(surrounded(task(lengths=[least - 1], n_items=1), BYTES))


def test_what_came_with_a_question_stays_as_it_came(tmp_path):
    path = _write(tmp_path / "hotpotqa.jsonl", [HOTPOT])
    fields = {"dataset": "hotpotqa", "path": path}
    [found] = surrounded(MultiDocTask.of(fields), BYTES)
    assert "".join(d.title for d in found.documents) == "ABCDE"
    assert found.group == {}
    ends = surrounded(MultiDocTask.of(fields | {"depths": [0, 100]}), BYTES)
    assert ["".join(d.title for d in s.documents) for s in ends] == ["BDACE", "ACEBD"]
    [few] = surrounded(MultiDocTask.of(fields | {"n_documents": [3], "depths": [0]}), BYTES)
    assert "".join(d.title for d in few.documents) == "BDA"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"n_documents": [0]}, "n_documents = [0]: must be at least 1"),
        ({"dataset": "hotpotqa", "n_documents": [1]}, "n_documents = [1]: must be at least 2"),
        ({"n_documents": [2, 2]}, "every value may stand there once"),
        ({"depths": [101]}, "depths = [101.0]: must be from 0 to 100"),
        ({"dataset": "nqq"}, "dataset = 'nqq'"),
        ({"files": ["x"]}, "files = ['x']: 'hf:hazyresearch/based_nq_512' takes config and split"),
    ],
    ids=str,
)
def test_bad_fields_are_named(fields, says):
    with pytest.raises(InputError) as told:
        MultiDocTask.of(fields)
    assert says in str(told.value)


def test_no_question_is_told(tmp_path):
    path = _write(tmp_path / "nq.jsonl", [{**ROWS[0], "answers": []}])
    with pytest.raises(InputError, match=r"task 'nq': .*nq\.jsonl holds no question"):
        questions_of(MultiDocTask.of({"path": path}))


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real data sets are not here")
def test_real_files():
    folder = str(REAL_DATA / "recall")
    nq = MultiDocTask.of({"path": folder, "n_documents": [20], "depths": [50], "n_items": 20})
    for s in surrounded(nq, BYTES):
        assert s.documents[9].text == s.asked.documents[0].text  # as Liu et al. have it
        assert any(a.lower() in s.documents[9].text.lower() for a in s.asked.answers)
    hotpot = MultiDocTask.of({"dataset": "hotpotqa", "path": folder})
    found = list(surrounded(hotpot, BYTES))
    assert len(found) == 200
    assert all(len(s.asked.gold) == 2 for s in found)

"""Records of question answering as passages, and the prompts that were published."""

import json

import pytest

from braidlm.arch.tasks import RecallTask
from braidlm.data.corpora import Record
from braidlm.data.passages import Passage, altqa, question_answering
from braidlm.data.recall import passages, prompts
from braidlm.data.tokenizer import ByteTokenizer
from braidlm.errors import InputError

from .conftest import REAL_DATA

BYTES = ByteTokenizer()
CLOZE = {
    "doc_id": "1",
    "context": " [DOC] [TLE] Mordant A mordant is used to set dyes. [PAR] It binds to Fibres. ",
    "orig_question": "What does a mordant bind to?",
    "question": "A mordant binds to",
    "answers": ["the fibre", "fibres"],
}
NATURAL = {"passage": "It was built in 1887.", "question": "when was it built", "answers": ["1887"]}


def _read(fields) -> Passage:
    found = question_answering(Record("a", "a.jsonl, line 1", fields))
    assert found is not None
    return found


def test_a_question_made_a_completion_is_asked_as_published():
    passage = _read(CLOZE)
    text = "Mordant A mordant is used to set dyes.  It binds to Fibres"
    assert passage.prompt(passage.document) == f"{text}. A mordant binds to"
    assert passage.prompt(passage.document, 2, True) == (
        f"What does a mordant bind to? {text}.\n{text}. A mordant binds to"
    )
    assert passage.prompt("It binds.") == "It binds. A mordant binds to"
    # The loss is that of the answer that stands in the text.
    assert passage.answers == ("fibres", "the fibre")


def test_a_question_that_ends_the_text_already_is_taken_off():
    passage = _read({**CLOZE, "context": "It binds to fibres. a MORDANT binds to"})
    assert passage.prompt(passage.document) == "It binds to fibres. A mordant binds to"


def test_a_question_is_asked_as_a_question():
    passage = _read(NATURAL)
    asked = "Question: when was it built\nAnswer:"
    assert passage.prompt(passage.document) == f"It was built in 1887.\n\n{asked}"
    first = passage.prompt(passage.document, 1, True)
    assert first == f"Question: when was it built\n\nIt was built in 1887.\n\n{asked}"


@pytest.mark.parametrize("answers", [["1887"], {"text": ["1887", "1887"], "answer_start": [0, 0]}])
def test_answers_are_a_list_or_squads(answers):
    assert _read({**NATURAL, "answers": answers}).answers == ("1887",)


@pytest.mark.parametrize("answers", [[], {"text": []}, ["", " "]], ids=str)
def test_what_has_no_answer_asks_nothing(answers):
    assert question_answering(Record("a", "a", {**NATURAL, "answers": answers})) is None


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"question": "q", "answers": ["a"]}, 'a.jsonl, line 1 has no field "context"'),
        ({"context": "c", "answers": ["a"]}, 'has no field "question"'),
        ({"context": "c", "question": "q"}, 'has no field "answers"'),
        ({**NATURAL, "answers": [1887]}, '"answers" must be a list of texts'),
        ({**NATURAL, "answers": {"value": "x"}}, '"answers" must be a list of texts'),
        ({**NATURAL, "passage": None}, '"passage" must be text, not NoneType'),
    ],
    ids=str,
)
def test_what_lacks_a_field_is_named(fields, says):
    with pytest.raises(InputError) as told:
        _read(fields)
    assert says in str(told.value)


TASK = "Answer the question. The answer should be a number"


@pytest.mark.parametrize(
    "content",
    [
        f"{TASK}\n\nDocument:\nIt opened in 1979 ,\n\n9 years on .\n\nQuestion:\nhow many years\n",
        f"{TASK}\n\nQuestion:\nhow many years\n\nDocument:\nIt opened in 1979 ,\n\n9 years on .\n",
    ],
    ids=["after", "before"],
)
def test_altered_numbers_are_asked_after_the_page_wherever_the_record_asks(content):
    passage = altqa(Record("a", "a.jsonl, line 1", {"content": content, "answer": "9"}))
    asked = "Question:\nhow many years\n\n"
    number = (
        "You should only give an number as the answer, without any explanations and other words."
    )
    end = f"{asked}{number}\nAnswer:"
    assert passage.document == "It opened in 1979 ,\n\n9 years on ."
    assert passage.prompt("Page.") == f"{TASK}\n\nDocument:\nPage.\n\n{end}"
    first = f"{TASK}\n\n{asked}Document:\nPage.\nPage.\n\n{end}"
    assert passage.prompt("Page.", 2, True) == first
    at = passage.document.index("9 years")
    assert passage.place() == (at, at + 1)  # "1979" holds it too


@pytest.mark.parametrize("content", ["", f"{TASK}\n\nDocument:\nIt opened.\n", "Question:\nx\n"])
def test_a_page_without_a_question_is_refused(content):
    with pytest.raises(InputError, match=r"a\.jsonl, line 1: 'content' must be a task, \"Document"):
        altqa(Record("a", "a.jsonl, line 1", {"content": content, "answer": "9"}))


def test_an_answer_that_is_no_word_of_its_own_is_still_found():
    passage = Passage("a", "an unbreakable thing", "", "", ("break",), "c")
    assert passage.place() == (5, 10)
    assert passage._replace(answers=("soft", "THING")).place() == (15, 20)


@pytest.fixture
def folder(tmp_path):
    """A folder of several data sets."""
    rows = {
        "nq_open_dev.jsonl": [{"question": "q", "answer": ["1887"]}],
        "nq-open-oracle.jsonl": [NATURAL, {**NATURAL, "answers": ["1890"]}],
        "squad_cloze.jsonl": [{"text": "It was 1887.\n\nIt was", "value": "1887"}],
        "squad_v2.jsonl": [{"context": "c", "question": "q", "answers": ["a"]}],
        "notes.jsonl": [{"text": "nothing"}],
    }
    for name, some in rows.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in some))
    return tmp_path


def _task(folder, dataset, **fields) -> RecallTask:
    return RecallTask.of({"dataset": dataset, "path": str(folder), "max_new_tokens": 4} | fields)


def test_a_folder_of_data_sets_is_read_by_name_and_by_fields(folder):
    assert [p.id for p in passages(_task(folder, "nq"))] == [
        "nq-open-oracle.jsonl:1",
        "nq-open-oracle.jsonl:2",
    ]
    assert [p.id for p in passages(_task(folder, "squad"))] == ["squad_cloze.jsonl:1"]
    with pytest.raises(InputError, match=r"holds no file of 'drop' \(files: notes\.jsonl, nq-"):
        passages(_task(folder, "drop"))
    (folder / "nq-open-oracle.jsonl").unlink()
    with pytest.raises(InputError, match=r"nq_open_dev\.jsonl, line 1 has no field \"context\""):
        passages(_task(folder, "nq"))
    [found] = passages(_task(folder, "nq", files=["squad_v2*"]))
    assert found.question == "Question: q\nAnswer:"
    with pytest.raises(InputError, match=r"files = \['x'\]: 'hf:a/b' takes config and split"):
        _task("hf:a/b", "nq", files=["x"])


def test_a_folder_of_one_data_set_needs_no_names(folder):
    for name in ("nq_open_dev", "squad_cloze", "squad_v2", "notes"):
        (folder / f"{name}.jsonl").unlink()
    (folder / "nq-open-oracle.jsonl").rename(folder / "validation-00001.jsonl")
    assert len(passages(_task(folder, "nq"))) == 2


def test_answers_that_do_not_stand_in_the_text_can_be_left_out(folder):
    [found] = passages(_task(folder, "nq", in_text=True))
    assert found.answers == ("1887",)
    (folder / "nq-open-oracle.jsonl").write_text(json.dumps({**NATURAL, "answers": ["x"]}))
    with pytest.raises(InputError, match="holds no question whose answer stands in its text"):
        passages(_task(folder, "nq", in_text=True))


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real data sets are not here")
@pytest.mark.parametrize(
    ("name", "n", "n_there"), [("nq", 2124, 2124), ("drop", 8300, 5207), ("altqa", 200, 200)]
)
def test_real_files(name, n, n_there):
    task = _task(REAL_DATA / "recall", name, n_items=9999)
    found = passages(task)
    assert len(found) == n
    assert sum(p.place() is not None for p in found) == n_there
    short = _task(REAL_DATA / "recall", name, n_items=20, lengths=[900], in_text=True, reads=2)
    asked = list(prompts(short, BYTES))
    assert len(asked) == 20
    for passage, _, prompt in asked:
        before = prompt.removesuffix(passage.question).lower()
        assert before.count(passage.answers[0].lower()) >= 2
        assert 5 + len(prompt.encode()) <= 900

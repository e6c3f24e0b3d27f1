"""Documents are what was asked for, and what cannot be is refused in one sentence."""

import numpy as np
import pytest

from braidlm.analysis.inputs import held_out, n_documents_of, of_file, of_task
from braidlm.data.phonebook import Phonebook, eval_lookups
from braidlm.data.tokenizer import ByteTokenizer
from braidlm.errors import InputError
from tests.tasks.models import recipe

BYTES = ByteTokenizer()
BOOK = {"kind": "phonebook", "lengths": [240, 300], "orders": ["standard", "reversed"]}


def test_held_out_documents_are_cut_to_the_context(tmp_path):
    made = recipe(tmp_path)
    found = held_out(made, BYTES, 20, 3)
    assert [len(document.tokens) for document in found.documents] == [20] * 3
    texts = {
        BYTES.encode((tmp_path / "texts" / f"{i:02d}.txt").read_text())[:19].tobytes()
        for i in range(24)
    }
    for document in found.documents:
        assert document.tokens[0] == BYTES.bos_id
        assert document.tokens[1:].tobytes() in texts
    assert found.digest == held_out(made, BYTES, 20, 3).digest
    assert found.digest != held_out(made, BYTES, 20, 2).digest
    assert not found.is_extrapolated
    assert held_out(made, BYTES, 33, 1).is_extrapolated


def test_fewer_documents_of_long_ones_are_read():
    lengths = (2, 4096, 4097, 8192, 16384, 10**6)
    assert [n_documents_of(n) for n in lengths] == [16, 16, 15, 8, 4, 4]


def test_a_context_that_no_document_has(tmp_path):
    with pytest.raises(InputError, match=r"context = 500: no held-out document of text .* has \d+"):
        held_out(recipe(tmp_path), BYTES, 500, 3)


def test_a_file_is_cut_into_documents(tmp_path):
    (tmp_path / "a.txt").write_text("abcdefgh")
    found = of_file(tmp_path / "a.txt", recipe(tmp_path), BYTES, 4, 9)
    assert [BYTES.decode(document.tokens) for document in found.documents] == ["abc", "def"]
    assert all(document.tokens[0] == BYTES.bos_id for document in found.documents)
    assert found.name == "text"


@pytest.mark.parametrize(
    ("content", "context", "said"),
    [
        (b" \n", 4, "the file is empty"),
        (b"abc", 9, "context = 9: .* has only 4 tokens"),
        (b"\xff\xfe\xff", 2, "it is not UTF-8"),
        (None, 2, "No such file"),
    ],
)
def test_bad_files(tmp_path, content, context, said):
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=said):
        of_file(tmp_path / "a.txt", recipe(tmp_path), BYTES, context, 9)


def test_questions_of_mqar_point_at_their_answers(tmp_path):
    made = recipe(tmp_path)
    found = of_task(made.tasks[1], made, None, None, 6)
    assert [document.id.split("/")[0] for document in found.documents] == ["2", "4"] * 3
    for document in found.documents:
        assert len(document.asked) == int(document.id.split("/")[0])
        for asked in document.asked:
            start, stop = asked.source
            assert document.tokens[start:stop].tolist() == list(asked.answer)
            assert document.tokens[start - 1] == document.tokens[asked.query]
            assert stop <= asked.query


def test_the_question_of_a_phonebook_points_at_the_entry(tmp_path):
    made = recipe(tmp_path, tasks=[BOOK])
    found = of_task(made.tasks[0], made, BYTES, None, 8)
    assert {document.id.rsplit("/", 1)[0] for document in found.documents} == {
        f"{order}/{length}" for order in BOOK["orders"] for length in BOOK["lengths"]
    }
    for document in found.documents:
        (asked,) = document.asked
        start, stop = asked.source
        assert asked.query == len(document.tokens) - 1
        assert document.tokens[start:stop].tolist() == list(asked.answer)
        name = BYTES.decode(document.tokens).splitlines()[-1]
        assert BYTES.decode(document.tokens[:start]).endswith("\n" + name)
    shorter = of_task(made.tasks[0], made, BYTES, 250, 4)
    assert max(len(document.tokens) for document in shorter.documents) <= 250


@pytest.mark.parametrize("order", ["standard", "reversed"])
def test_a_book_says_where_its_numbers_stand(order):
    for item in eval_lookups(Phonebook(BYTES), 3, length=400, order=order):
        texts = [BYTES.decode(item.tokens[a:b]) for a, b in item.values]
        assert texts == [f" {number}" for number in item.numbers]


def test_a_task_that_asks_nothing(tmp_path):
    made = recipe(tmp_path)
    with pytest.raises(InputError, match="is no recall task"):
        of_task(made.tasks[0], made, None, None, 6)


def test_a_model_that_cannot_hold_the_tokenizer(tmp_path):
    made = recipe(tmp_path)
    small = made.model_copy(update={"spec": made.spec.model_copy(update={"vocab_size": 64})})
    with pytest.raises(InputError, match="vocab_size = 64 must be at least"):
        held_out(small, BYTES, 8, 1)
    assert isinstance(held_out(made, BYTES, 8, 1).documents[0].tokens, np.ndarray)

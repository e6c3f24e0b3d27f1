import json

import numpy as np
import pytest

from braidlm.data.ruler.documents import read_library
from braidlm.errors import InputError


def article(title, n):
    return {
        "title": title,
        "paragraphs": [
            {
                "context": f"In {title} part {i} the answer is {title}{i}.",
                "qas": [
                    {
                        "question": f"What is the answer of {title} {i}?",
                        "answers": [{"text": f"{title}{i}"}, {"text": f"{title}{i}"}],
                        "is_impossible": False,
                    },
                    {"question": "Nothing?", "answers": [], "is_impossible": True},
                ],
            }
            for i in range(n)
        ],
    }


@pytest.fixture
def squad(tmp_path):
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"data": [article("red", 4), article("blue", 9)]}))
    return read_library(str(path))


def documents(item):
    context = item.text.split("given documents.\n\n")[1].split("\n\nAnswer the question")[0]
    blocks = context.split("\n\n")
    assert [block.split("\n")[0] for block in blocks] == [
        f"Document {i + 1}:" for i in range(len(blocks))
    ]
    return [block.split("\n", 1)[1] for block in blocks]


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 9, 50])
def test_a_question_stands_among_its_article_first(squad, size):
    item = squad.draw(np.random.default_rng(size), size, 1)
    shown = documents(item)
    assert len(shown) == len(set(shown)) == min(max(size, 1), 13)
    assert item.answers == ("red1",)
    assert sum("red1." in text for text in shown) == 1
    n_red = sum(text.startswith("In red") for text in shown)
    assert n_red == min(max(size, 1), 4)
    assert item.text.endswith("Question: What is the answer of red 1?")
    assert item.prefix == " Answer:"


def test_the_gold_document_stands_anywhere(squad):
    places = [
        [("red1." in text) for text in documents(squad.draw(np.random.default_rng(i), 5, 1))].index(
            True
        )
        for i in range(300)
    ]
    assert min(np.bincount(places, minlength=5)) > 35


def test_lines_and_the_published_file_give_the_same_questions(squad, tmp_path):
    rows = [
        {"title": a["title"], "context": p["context"]}
        | {"question": q["question"], "answers": {"text": [x["text"] for x in q["answers"]]}}
        for a in (article("red", 4), article("blue", 9))
        for p in a["paragraphs"]
        for q in p["qas"]
    ]
    path = tmp_path / "squad.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert read_library(str(path)) == squad


def test_hotpotqa_has_all_its_paragraphs(tmp_path):
    row = {
        "question": "Who?",
        "answer": "Ann",
        "context": [["Ann", ["Ann is one.", " She is two."]], ["Tom", ["Tom."]]],
    }
    path = tmp_path / "hotpot.json"
    path.write_text(json.dumps([row, row | {"context": [["Eva", ["Eva."]]]}]))
    library = read_library(str(path))
    item = library.draw(np.random.default_rng(0), 1, 0)
    assert sorted(documents(item)) == ["Ann\nAnn is one. She is two.", "Tom\nTom."]
    assert len(documents(library.draw(np.random.default_rng(0), 3, 0))) == 3


def test_questions_whose_documents_do_not_fit_are_passed_over(squad):
    def count(text):
        return 10**6 if "blue 0?" in text else len(text.split())

    assert squad.that_fit(count, 500, 6) == [0, 1, 2, 3, 5, 6]
    with pytest.raises(InputError, match="only 12 of 13 questions fit"):
        squad.that_fit(count, 500, 13)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "field 'data' is missing"),
        ("[1]", "cannot be read as SQuAD or HotpotQA"),
        ("not json", "cannot be read as SQuAD or HotpotQA"),
        ('{"data": []}', "holds no question with an answer"),
    ],
)
def test_another_file_is_refused_in_a_sentence(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_library(str(tmp_path / "x.json"))
    with pytest.raises(InputError, match=r"missing\.json"):
        read_library(str(tmp_path / "missing.json"))

"""Passages out of documents."""

import pytest

from braidlm.data.paraphrase.reading import TextInput, read_passages, sentences

TEXT = 'Dr. A. Smith came in 1990. He left! "Why?" she asked. It was 3.5 m.\n\nThe end. It is so.'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. A. Smith came. He left.", ["Dr. A. Smith came.", "He left."]),
        ("It costs $3.50. 12 came.", ["It costs $3.50.", "12 came."]),
        ('He said "No." She left.', ['He said "No."', "She left."]),
        ("In the U.S. Army he rose. Then he fell.", ["In the U.S. Army he rose.", "Then he fell."]),
        ("See No. 5 of it. No. He left.", ["See No. 5 of it.", "No.", "He left."]),
        ("e.g. Paris is one", ["e.g. Paris is one"]),
        ("  \n ", []),
    ],
)
def test_sentences(text, expected):
    assert sentences(text) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [("x.txt", TEXT)]),
        (
            {"unit": "paragraph"},
            [("x.txt/0", TEXT.split("\n\n")[0]), ("x.txt/1", "The end. It is so.")],
        ),
        ({"unit": "paragraph", "max_words": 8}, ["x.txt/0", "x.txt/1", "x.txt/2"]),
        ({"unit": "sentence"}, [f"x.txt/{i}" for i in range(6)]),
    ],
)
def test_units(tmp_path, settings, expected):
    (tmp_path / "x.txt").write_text(TEXT)
    source = TextInput(path=str(tmp_path / "x.txt"), **settings)
    found = [(p.id, p.text) for p in read_passages(source)]
    if isinstance(expected[0], str):
        assert [name for name, _ in found] == expected
        assert " ".join(text for _, text in found).split() == TEXT.split()
        assert not settings.get("max_words") or max(len(t.split()) for _, t in found) <= 8
    else:
        assert found == expected


def test_a_document_of_nothing_is_one_empty_passage(tmp_path):
    (tmp_path / "x.txt").write_text("\n\n")
    source = TextInput(path=str(tmp_path / "x.txt"), unit="sentence")
    assert [p.text for p in read_passages(source)] == ["\n\n"]

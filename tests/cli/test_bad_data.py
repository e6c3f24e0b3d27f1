"""Corpora, tokenizers and shards that cannot be read."""

import gzip
import json
import lzma

import pytest

from tests.cli.conftest import contents

ONE = b'{"text": "a"}\n'
CORPORA = {
    "missing.txt": (None, "does not exist"),
    "table.csv": (b"a,b", "must end in one of .txt"),
    "empty.txt": (b"", "holds no text"),
    "blank.txt": (b" \n\n", "holds no text"),
    "empty.jsonl": (b"", "holds no text"),
    "latin.txt": (b"abc\n\xff\xfe", "line 2: byte 0xff is not UTF-8"),
    "no.txt.gz": (b"no gzip", "cannot be read"),
    "no.txt.xz": (b"no xz", "cannot be read"),
    "cut.txt.gz": (gzip.compress(b"hello" * 1000)[:-9], "cannot be read"),
    "cut.jsonl.xz": (lzma.compress(ONE * 1000)[:-20], "line 1001 cannot be read"),
    "sum.txt.gz": (gzip.compress(b"hello")[:-8] + b"\0" * 8, "CRC check failed"),
    "bad.jsonl": (ONE + b"{bad\n", "line 2 is not JSON"),
    "deep.jsonl": (ONE + b"[" * 100000 + b"\n", "line 2 is not JSON"),
    "long.jsonl": (ONE + b'{"text": "a", "n": ' + b"9" * 5000 + b"}\n", "line 2 is not JSON"),
    "list.jsonl": (b"[1]\n", "line 1 must be a JSON object"),
    "body.jsonl": (ONE + b'{"body": "b"}\n', 'line 2 has no field "text" (fields: body)'),
    "kind.jsonl": (b'{"text": 5}\n', 'field "text" must be text, not int'),
}


@pytest.mark.parametrize("name", CORPORA)
def test_a_bad_corpus_is_named_and_leaves_no_shards(refused, recipe, name):
    content, says = CORPORA[name]
    path = recipe.parent / name
    if content is not None:
        path.write_bytes(content)
    refused("data", "build", recipe, "--set", f'data.sources.text.path="{path}"', says=(name, says))
    cache = recipe.parent / "cache"
    assert not cache.exists() or not list(cache.iterdir())


def test_an_empty_folder_is_no_corpus(refused, recipe):
    (recipe.parent / "texts").mkdir()
    path = recipe.parent / "texts"
    words = ("train", recipe, "--out", recipe.parent / "run")
    refused(*words, "--set", f'data.sources.text.path="{path}"', says="holds no file that ends in")
    assert not (recipe.parent / "run").exists()


@pytest.mark.parametrize("held_out", ["0.02", "0.999"])
def test_one_txt_file_is_one_document_and_one_half_stays_empty(refused, recipe, held_out):
    """Either nothing is left to train on, or nothing to be tested on: said before the training."""
    book = recipe.parent / "book.txt"
    book.write_text("Once upon a time.\n\n" * 50)
    overrides = [f'data.sources.text.path="{book}"', f"data.held_out={held_out}"]
    words = [w for text in overrides for w in ("--set", text)]
    half = "document to train on" if held_out == "0.999" else "held-out document"
    says = (f"has no {half} (held_out = {held_out})", "book.txt into more documents", ".jsonl")
    refused("train", recipe, "--out", recipe.parent / "run", *words, says=says)
    assert not (recipe.parent / "run").exists()


def test_without_the_task_one_txt_file_trains(braid, recipe):
    book = recipe.parent / "book.txt"
    book.write_text("Once upon a time.\n\n" * 50)
    sets = [f'data.sources.text.path="{book}"', "tasks=[]", "data.held_out=0", "train.steps=1"]
    words = [w for text in sets for w in ("--set", text)]
    out = ("--out", recipe.parent / "run", "--no-eval", "--progress", "none")
    assert braid("train", recipe, *out, *words).code == 0


TOKENIZERS = {
    "missing": (None, "cannot be read (No such file or directory)"),
    "empty": (b"", "is not a tokenizers JSON file"),
    "binary": (b"\xff\xfe", "is not a tokenizers JSON file"),
    "list": (b"[]", "is not a tokenizers JSON file"),
    "other": (b'{"version": "1.0"}', "is not a tokenizers JSON file"),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_a_bad_tokenizer_is_named(refused, recipe, case):
    content, says = TOKENIZERS[case]
    path = recipe.parent / f"{case}.json"
    if content is not None:
        path.write_bytes(content)
    words = ("data", "build", recipe, "--set", f'data.tokenizer="{path}"')
    refused(*words, says=(f"{case}.json", says))


def test_a_vocabulary_below_the_tokenizer_is_refused(refused, recipe):
    sets = ["--set", "model.vocab_size=200", "--set", "data.sources.mqar.token_offset=100"]
    words = ("train", recipe, "--out", recipe.parent / "run", *sets)
    refused(*words, says="model.vocab_size = 200: must be at least 259")
    assert not (recipe.parent / "run").exists()


@pytest.fixture
def shards(recipe):
    """The shard folder of the recipe's corpus."""
    from braidlm.arch import Recipe
    from braidlm.data.prepare import build

    build(Recipe.load(recipe).data)
    return next((recipe.parent / "cache").iterdir())


@pytest.mark.parametrize("command", ["build", "inspect", "train"])
@pytest.mark.parametrize("how", ["cut", "altered", "deleted"])
@pytest.mark.parametrize("name", ["train-00000.bin", "train-00000.idx"])
def test_a_damaged_shard_is_named(refused, recipe, shards, name, how, command):
    file = shards / name
    data = bytearray(file.read_bytes())
    if how == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif how == "altered":
        data[8:16] = b"\xff" * 8
        file.write_bytes(data)
    else:
        file.unlink()
    _refused_by(refused, command, recipe, says=(name, "build it again"))


META = {
    "no object": b"[]",
    "no JSON": b"{",
    "binary": b"\xff\xfe",
    "another format": b'{"format": 9}',
    "nothing else": b'{"format": 1}',
}


@pytest.mark.parametrize("case", META)
def test_a_garbage_meta_file_is_named(refused, recipe, shards, case):
    (shards / "meta.json").write_bytes(META[case])
    for command in ("build", "train"):
        _refused_by(refused, command, recipe, says="meta.json")


@pytest.mark.parametrize("value", [None, 5, "x", [], {}])
@pytest.mark.parametrize("field", ["dtype", "tokenizer", "source", "splits"])
def test_an_altered_meta_file_is_named(refused, recipe, shards, field, value):
    meta = json.loads((shards / "meta.json").read_text())
    (shards / "meta.json").write_text(json.dumps(meta | {field: value}))
    _refused_by(refused, "build", recipe, says=("meta.json", f"'{field}' was altered"))


def test_altered_held_out_tokens_are_not_scored(refused, run, trained):
    (shards,) = (trained / "cache").iterdir()
    file = shards / "held_out-00000.bin"
    data = file.read_bytes()
    try:
        file.write_bytes(b"\xff" * len(data))
        before = contents(run)
        refused("eval", run, "--tasks", "lm", says=("held_out-00000.bin", "was altered"))
        assert contents(run) == before
    finally:
        file.write_bytes(data)


def _refused_by(refused, command, recipe, says):
    run = recipe.parent / "run"
    out = ["--out", run, "--progress", "none"] if command == "train" else []
    words = ["train"] if command == "train" else ["data", command]
    refused(*words, recipe, *out, says=says)
    assert not run.exists()

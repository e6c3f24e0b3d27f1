import subprocess
import sys

import pytest

from braidlm.data import bpe_train
from braidlm.data.bpe_train import train_tokenizer
from braidlm.data.tokenizer import JSONTokenizer, load_tokenizer
from braidlm.errors import InputError

from .conftest import REAL_DATA, make_text, source_of, write_jsonl


@pytest.fixture
def many(tmp_path):
    """400 documents, so that some are held out."""
    return write_jsonl(tmp_path / "many.jsonl", [make_text(i, 5 + i % 60) for i in range(400)])


@pytest.fixture
def trained(many, tmp_path):
    """A tokenizer of 500 tokens, its file, and what was said of it."""
    out = tmp_path / "t.json"
    return out, train_tokenizer([source_of(many)], 500, out)


def test_what_is_written_is_a_tokenizer_of_this_library(trained):
    out, found = trained
    t = load_tokenizer(out)
    assert t.vocab_size == found["vocab_size"] == 500
    assert t.special == {0: "<|endoftext|>"}
    assert t.bos_id == t.eos_id == t.pad_id == 0
    text = "Document 5.\nthe quick Größe 東京 🦊 \x00\xff\r\n  and never seen: ξ"
    assert t.decode(t.encode(text)) == text
    assert isinstance(t, JSONTokenizer)
    assert t._is_cuttable


def test_compression_is_measured_on_text_that_was_not_trained_on(trained, many):
    out, found = trained
    t = load_tokenizer(out)
    texts = [make_text(i, 5 + i % 60) for i in range(400)]
    held = [x for x in texts if bpe_train.is_held_out(x, bpe_train.HELD_OUT)]
    assert found["is_held_out"]
    assert 10 < len(held) < 40
    n_bytes = sum(len(x.encode()) for x in held)
    assert found["held_out_bytes"] == n_bytes
    assert found["trained_bytes"] == sum(len(x.encode()) for x in texts) - n_bytes
    plain, mine = found["compression"]
    assert (plain["tokenizer"], plain["bytes_per_token"]) == ("bytes", 1.0)
    assert mine["tokens"] == sum(len(t.encode(x)) for x in held)
    assert mine["bytes_per_token"] == n_bytes / mine["tokens"] > 2


def test_the_first_merge_is_the_most_frequent_pair(tmp_path):
    (tmp_path / "a.txt").write_text("xy " * 50 + "zq " * 10)
    out = tmp_path / "t.json"
    train_tokenizer([source_of(tmp_path / "a.txt")], 258, out)
    t = load_tokenizer(out)
    assert len(t.encode("xy")) == 1
    assert len(t.encode("zq")) == 2


def test_the_same_text_gives_the_same_bytes(trained, many, tmp_path):
    out, _ = trained
    code = (
        "import sys; from pathlib import Path; from braidlm.arch.sources import TextSource;"
        "from braidlm.data.bpe_train import train_tokenizer as t;"
        "t([TextSource(path=sys.argv[1])], 500, Path(sys.argv[2]))"
    )
    for i, threads in enumerate(["1", "3"]):
        again = tmp_path / f"again-{i}.json"
        run = [sys.executable, "-c", code, str(many), str(again)]
        subprocess.run(run, check=True, env={"RAYON_NUM_THREADS": threads, "PATH": ""})
        assert again.read_bytes() == out.read_bytes()


def test_several_sources_and_other_tokenizers(many, tmp_path, bpe_file):
    (tmp_path / "b.txt").write_text("qqqq " * 500)
    sources = [source_of(many), source_of(tmp_path / "b.txt")]
    other = load_tokenizer(bpe_file)
    found = train_tokenizer(sources, 400, tmp_path / "t.json", against=[other])
    assert [row["tokenizer"] for row in found["compression"]][2] == str(bpe_file)
    assert len(load_tokenizer(tmp_path / "t.json").encode(" qqqq")) == 1


def test_special_tokens_come_first(many, tmp_path):
    out = tmp_path / "t.json"
    train_tokenizer([source_of(many)], 400, out, special=["<s>", "</s>", "<pad>"])
    t = load_tokenizer(out)
    assert (t.bos_id, t.eos_id, t.pad_id) == (0, 1, 2)


def test_too_little_text_is_measured_on_what_was_trained(tmp_path):
    (tmp_path / "a.txt").write_text("xy " * 50)
    found = train_tokenizer([source_of(tmp_path / "a.txt")], 258, tmp_path / "t.json")
    assert not found["is_held_out"]
    assert found["held_out_bytes"] == found["trained_bytes"] == 150


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 0}, "vocab_size = 0 must be more than 257 "),
        ({"vocab_size": 257}, r"vocab_size = 257 must be more than 257 \(the 256 bytes and 1 spec"),
        ({"vocab_size": 2**21}, "vocab_size = 2097152 must .* at most 1048576"),
        ({"vocab_size": 100_000}, r"vocab_size = 100000 is more than this text gives: \d+ at most"),
        ({"special": ["<s>", "<s>"]}, "special token '<s>' must not be empty and stand there once"),
        ({"special": [""]}, "special token '' must not be empty"),
        ({"special": ["<mine>"]}, "has no token that opens or closes a document"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(many, tmp_path, fields, message):
    out = tmp_path / "t.json"
    out.write_text("earlier")
    vocab_size = fields.pop("vocab_size", 400)
    with pytest.raises(InputError, match=message):
        train_tokenizer([source_of(many)], vocab_size, out, **fields)
    assert out.read_text() == "earlier"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["many.jsonl", "t.json"]


def test_no_text_and_no_folder_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(InputError, match=r"a\.txt holds no text to train on"):
        train_tokenizer([source_of(tmp_path / "a.txt")], 400, tmp_path / "t.json")
    with pytest.raises(InputError, match=r"folder .*none does not exist"):
        train_tokenizer([source_of(tmp_path / "a.txt")], 400, tmp_path / "none" / "t.json")


@pytest.mark.slow
@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real corpora are not here")
def test_real_english_compresses_as_measured(tmp_path):
    sources = [source_of(REAL_DATA / "lm/enwiki_2014/validation.jsonl.xz")]
    found = train_tokenizer(sources, 4096, tmp_path / "t.json")
    assert 3.3 < found["compression"][1]["bytes_per_token"] < 4.2

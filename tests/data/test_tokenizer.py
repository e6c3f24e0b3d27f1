import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidlm.data import tokenizer as module
from braidlm.data.tokenizer import ByteTokenizer, JSONTokenizer, load_tokenizer
from braidlm.errors import InputError

from .conftest import REAL_DATA, make_text


@given(st.text())
def test_bytes_round_trip(text):
    t = ByteTokenizer()
    ids = t.encode(text)
    assert ids.tolist() == list(text.encode())
    assert t.decode(ids) == text
    assert t.decode([t.bos_id, *ids, t.eos_id, t.pad_id]) == text


@given(st.lists(st.integers(-5, 2**40)))
def test_bytes_decode_never_raises(ids):
    text = ByteTokenizer().decode(ids)
    text.encode()
    strangers = sum(not 0 <= i < 259 for i in ids)
    assert text.count("\ufffd") >= strangers


def test_bytes_take_a_lone_surrogate():
    assert ByteTokenizer().encode("a\ud800b").tolist() == [97, 63, 98]


def test_json_round_trip_and_batches(bpe_file):
    t = load_tokenizer(bpe_file)
    texts = ["", " ", "the quick brown fox", "Größe 東京 🦊\r\n\n  x", make_text(3, 60)]
    batch = t.encode_batch(texts)
    for text, ids in zip(texts, batch, strict=True):
        assert t.decode(ids) == text
        np.testing.assert_array_equal(t.encode(text), ids)
    # Merges are used, and the file's own truncation to 5 tokens is not.
    assert 5 < len(batch[4]) < 0.7 * len(texts[4].encode())


def test_json_special_tokens(bpe_file):
    t = load_tokenizer(bpe_file)
    assert t.bos_id == t.eos_id == t.pad_id
    assert t.special == {t.eos_id: "<|endoftext|>"}
    spelled = t.encode("a<|endoftext|>b")
    assert t.eos_id not in spelled
    assert t.decode(spelled) == "a<|endoftext|>b"
    assert t.decode([t.bos_id, *t.encode("fox"), t.eos_id]) == "fox"
    assert t.decode([10**9, *t.encode("fox"), -1]) == "\ufffdfox\ufffd"
    np.testing.assert_array_equal(t.encode("a\ud800b"), t.encode("a?b"))


def test_pieces_of_a_long_text_give_the_same_tokens(bpe_file, monkeypatch):
    t = load_tokenizer(bpe_file)
    text = "\n".join(make_text(i, 9) + "\n \n  indented\n\nline" for i in range(30))
    whole = t.encode(text)
    monkeypatch.setattr(module, "_MAX_PIECE_CHARS", 40)
    assert len(module._pieces(text)) > 20
    np.testing.assert_array_equal(t.encode(text), whole)


def test_pieces_without_line_ends_stay_whole(monkeypatch):
    monkeypatch.setattr(module, "_MAX_PIECE_CHARS", 10)
    assert module._pieces("x" * 35) == ["x" * 35]
    assert module._pieces("") == [""]


def test_fingerprints_tell_tokenizers_apart(bpe_file, tmp_path):
    other = json.loads(bpe_file.read_text())
    other["added_tokens"][0]["content"] = "<eos>"
    other["model"]["vocab"]["<eos>"] = other["model"]["vocab"].pop("<|endoftext|>")
    path = tmp_path / "other.json"
    path.write_text(json.dumps(other))
    prints = {load_tokenizer(n).fingerprint for n in ("bytes", bpe_file, path)}
    assert len(prints) == 3
    copy = tmp_path / "copy.json"
    copy.write_bytes(bpe_file.read_bytes())
    assert load_tokenizer(copy).fingerprint == load_tokenizer(bpe_file).fingerprint


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff\xfe", b"[1, 2]"])
def test_a_corrupt_file_is_an_input_error(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.json is not a tokenizers JSON file"):
        load_tokenizer(path)


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"none\.json cannot be read"):
        load_tokenizer(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be read"):
        load_tokenizer(tmp_path)


def test_a_file_without_document_token_is_an_input_error(tmp_path):
    from tokenizers import Tokenizer, models

    path = tmp_path / "plain.json"
    Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(path))
    with pytest.raises(InputError, match="has no token that opens or closes a document"):
        JSONTokenizer(path)


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real corpora are not here")
def test_gpt_neox():
    t = load_tokenizer(REAL_DATA / "tokenizers/gpt-neox-20b/tokenizer.json")
    assert (t.eos_id, t.pad_id, t.vocab_size) == (0, 1, 50277)
    assert t.decode(t.encode("Hello, world!  def f(x):\n    return 1")) == (
        "Hello, world!  def f(x):\n    return 1"
    )

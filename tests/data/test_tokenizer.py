import json
from itertools import islice
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from braidlm.data import tokenizer as module
from braidlm.data.corpora import read_corpus
from braidlm.data.tokenizer import ByteTokenizer, JSONTokenizer, load_tokenizer
from braidlm.errors import InputError

from .conftest import REAL_DATA, make_text, source_of


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
    t = JSONTokenizer(bpe_file)
    texts = ["", " ", "the quick brown fox", "Größe 東京 🦊\r\n\n  x", make_text(3, 60)]
    batch = t.encode_batch(texts)
    for text, ids in zip(texts, batch, strict=True):
        assert t.decode(ids) == text
        np.testing.assert_array_equal(t.encode(text), ids)
    # Merges are used, and the file's own truncation to 5 tokens is not.
    assert 5 < len(batch[4]) < 0.7 * len(texts[4].encode())


def test_json_special_tokens(bpe_file):
    t = JSONTokenizer(bpe_file)
    assert t.bos_id == t.eos_id == t.pad_id
    assert t.special == {t.eos_id: "<|endoftext|>"}
    spelled = t.encode("a<|endoftext|>b")
    assert t.eos_id not in spelled
    assert t.decode(spelled) == "a<|endoftext|>b"
    assert t.decode([t.bos_id, *t.encode("fox"), t.eos_id]) == "fox"
    assert t.decode([10**9, *t.encode("fox"), -1]) == "\ufffdfox\ufffd"
    np.testing.assert_array_equal(t.encode("a\ud800b"), t.encode("a?b"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(["a", "The", "é", "7", ".", " ", "  ", "\n", "\r\n", "\t", "\x85"]))
)
def test_pieces_of_a_long_text_give_the_same_tokens(bpe_file, parts):
    t = JSONTokenizer(bpe_file)
    text = "".join(parts)
    t._is_cuttable = False
    whole = t.encode(text)
    t._is_cuttable = True
    with mock.patch.object(module, "_MAX_PIECE_CHARS", 1):
        np.testing.assert_array_equal(t.encode(text), whole)


def test_lines_are_cut_where_a_piece_may_start(bpe_file, monkeypatch):
    assert JSONTokenizer(bpe_file)._is_cuttable
    monkeypatch.setattr(module, "_MAX_PIECE_CHARS", 3)
    assert module.text_pieces("one\ntwo\n\nthree \n four\n  five\nsix") == [
        "one\n",
        "two\n\nthree \n",
        " four\n  five\n",
        "six",
    ]


def test_a_tokenizer_that_marks_the_start_of_a_text_is_never_cut(tmp_path, monkeypatch):
    from tokenizers import Tokenizer, models, pre_tokenizers

    inner = Tokenizer(models.WordLevel({"<s>": 0, "▁": 1, "a": 2, "▁a": 3, "?": 4}, "?"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Split("\n", "isolated")]
    )
    inner.save(str(tmp_path / "marks.json"))
    t = JSONTokenizer(tmp_path / "marks.json")
    assert t.encode("a").tolist() == [3]
    whole = t.encode("a\na\na\na\na\na")
    assert whole.tolist().count(2) == 5
    monkeypatch.setattr(module, "_MAX_PIECE_CHARS", 2)
    np.testing.assert_array_equal(t.encode("a\na\na\na\na\na"), whole)


def test_pieces_without_line_ends_stay_whole(monkeypatch):
    monkeypatch.setattr(module, "_MAX_PIECE_CHARS", 10)
    assert module.text_pieces("x" * 35) == ["x" * 35]
    assert module.text_pieces("") == [""]


def test_groups_keep_every_piece_in_order(bpe_file, monkeypatch):
    t = JSONTokenizer(bpe_file)
    texts = [make_text(i, i) for i in range(20)]
    whole = [ids.tolist() for ids in t.encode_batch(texts)]
    monkeypatch.setattr(module, "_GROUP_CHARS", 50)
    assert [len(g) for g in module._groups(texts)][:2] == [3, 2]
    assert [ids.tolist() for ids in t.encode_batch(texts)] == whole


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


@pytest.mark.parametrize(
    "content", [b"", b"{", b"{}", b"\xff\xfe", b"[1, 2]", b'{"' + b"x" * 9999 + b'": 1}']
)
def test_a_corrupt_file_is_an_input_error(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.json is not a tokenizers JSON file") as said:
        load_tokenizer(path)
    assert len(str(said.value)) < 400 + len(str(path))


@pytest.mark.parametrize("alter", ["merges", "unknown"])
def test_a_file_that_contradicts_itself_is_an_input_error(tmp_path, bpe_file, alter):
    """Found by damaging files: one panics inside the library, the other fails at its first text."""
    data = json.loads(bpe_file.read_text())
    if alter == "merges":
        data["model"]["continuing_subword_prefix"] = "x" * 50
    else:
        data["model"]["unk_token"] = "nowhere"
        data["model"]["vocab"] = {"<s>": 0, "</s>": 1}
        data["model"]["merges"] = []
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"odd\.json"):
        load_tokenizer(path).encode("the cat")


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
def test_gpt_neox_cuts_real_text_without_a_trace(monkeypatch):
    t = JSONTokenizer(REAL_DATA / "tokenizers/gpt-neox-20b/tokenizer.json")
    assert t._is_cuttable
    monkeypatch.setattr(module, "_MAX_PIECE_CHARS", 1000)
    n_pieces = 0
    for name in ("wikitext2/wiki.test.raw.txt.xz", "debian_docs/validation.jsonl.xz"):
        for document in islice(read_corpus(source_of(REAL_DATA / "lm" / name)), 8):
            start = document.text[:50_000]
            n_pieces += len(module.text_pieces(start))
            cut = t.encode(start)
            t._is_cuttable = False
            np.testing.assert_array_equal(t.encode(start), cut)
            t._is_cuttable = True
    assert n_pieces > 100


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real corpora are not here")
def test_gpt_neox():
    t = JSONTokenizer(REAL_DATA / "tokenizers/gpt-neox-20b/tokenizer.json")
    assert (t.eos_id, t.pad_id, t.vocab_size) == (0, 1, 50277)
    assert t.decode(t.encode("Hello, world!  def f(x):\n    return 1")) == (
        "Hello, world!  def f(x):\n    return 1"
    )

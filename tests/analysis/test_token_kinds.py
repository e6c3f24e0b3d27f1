"""Kinds of tokens by their text, whatever the tokenizer."""

import numpy as np
import pytest

from braidlm.analysis.token_kinds import KINDS, kind_of, pieces, token_kinds
from braidlm.arch.sources import TextSource
from braidlm.data.bpe_train import train_tokenizer
from braidlm.data.tokenizer import ByteTokenizer, load_tokenizer


class Words(ByteTokenizer):
    """Given pieces; the space in front of a text is dropped, as SentencePiece does."""

    def __init__(self, *known):
        self.known = ["x", *known]

    def encode(self, text):
        return np.array([self.known.index(text)])

    def decode(self, ids):
        return "".join(self.known[i] for i in ids).lstrip(" ")


def kinds(*known):
    return token_kinds(range(1, len(known) + 1), Words(*known))


@pytest.mark.parametrize(
    ("piece", "before", "kind"),
    [
        ("The", "\n\n", "start"),
        ("the", "\n\n", "start"),
        (" The", "It is. ", "start"),
        (" The", "It is.", "start"),
        ("The", "It is!) ", "start"),
        (" “The", "“It is.” ", "start"),
        ("the", "It is. ", "other"),
        (" the", "It is,", "other"),
        ("The", "v1.", "other"),
        ("mat", " tele", "continuation"),
        ("'s", " it", "other"),
        (" mat", " tele", "other"),
        ("\ufffd", "na", "continuation"),
        ("7", " 1", "number"),
        (" 3.5", "x", "number"),
        ("a1", "\n\n", "number"),
        (".", "end", "other"),
        ("\n\n", "end.", "other"),
        ("", "end", "other"),
        ("Next", "a title\n\n", "start"),
        ("next", "a title\n", "other"),
        ("È", "Basta. ", "start"),
    ],
)
def test_kinds_by_hand(piece, before, kind):
    assert kind_of(piece, before) == kind


def test_a_text_in_pieces():
    found = kinds("Tele", "phone", " 12", ".", " It", " rings", "!", "\n\n", "so", " what")
    assert found == [
        *("start", "continuation", "number", "other", "start", "other", "other", "other"),
        *("start", "other"),
    ]


def test_a_space_that_decoding_drops_is_kept():
    tokenizer = Words(" a", "b")
    assert pieces([1, 2, 1], tokenizer) == [" a", "b", " a"]


def test_bytes_are_letters_of_words():
    ids = [256, *ByteTokenizer().encode("Hi é 7. Oh").tolist()]
    found = token_kinds(ids, ByteTokenizer())
    assert found[:4] == ["other", "start", "continuation", "other"]
    assert found[4:6] == ["other", "continuation"]  # the two bytes of é
    assert found[7] == "number"
    assert found[-2:] == ["start", "continuation"]


def test_a_trained_tokenizer(tmp_path):
    text = "Hello there. There are 12 telephones. " * 40
    (tmp_path / "a.txt").write_text(text)
    out = tmp_path / "t.json"
    train_tokenizer([TextSource(path=str(tmp_path / "a.txt"))], 280, out)
    tokenizer = load_tokenizer(str(out))
    ids = tokenizer.encode(text[:38])
    assert "".join(pieces(ids, tokenizer)) == text[:38]
    found = dict(zip(pieces(ids, tokenizer), token_kinds(ids, tokenizer), strict=True))
    assert set(found.values()) <= set(KINDS)
    assert any(kind == "start" and "T" in piece for piece, kind in found.items())
    assert all(kind == "number" for piece, kind in found.items() if "1" in piece)

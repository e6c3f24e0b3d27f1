"""Streamed text joins to the whole text, and never shows half a character."""

from hypothesis import example, given
from hypothesis import strategies as st

from braidlm.data.tokenizer import ByteTokenizer
from braidlm.generate import TextStream


def _pieces(ids: list[int]) -> list[str]:
    stream = TextStream(ByteTokenizer())
    return [*(stream.push(token) for token in ids), stream.finish()]


def test_a_character_appears_with_its_last_byte():
    assert _pieces(list("aé€😀b".encode())) == [
        "a",
        "",
        "é",
        "",
        "",
        "€",
        "",
        "",
        "",
        "😀",
        "b",
        "",
    ]


def test_an_incomplete_character_is_shown_at_the_end():
    assert _pieces(list("a😀".encode())[:-1]) == ["a", "", "", "", "\ufffd"]


def test_garbage_is_not_held_back_for_ever():
    pieces = _pieces([0xFF] * 6)
    assert "".join(pieces[:-1]) == "\ufffd" * 5
    assert pieces[-1] == "\ufffd"


@given(st.lists(st.integers(0, 270), max_size=24))
@example([0xC3, 257, 0xA9])
@example([0xF0, 0x9F, 0x41, 0x98])
@example([0xED, 0xA0, 0x80, 0xF4, 0x90])
def test_pieces_join_to_the_whole(ids):
    assert "".join(_pieces(ids)) == ByteTokenizer().decode(ids)


@given(st.text(max_size=12))
def test_valid_text_never_shows_a_replacement(text):
    text = text.encode("utf-8", "ignore").decode().replace("\ufffd", "")
    pieces = _pieces(list(text.encode()))
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)

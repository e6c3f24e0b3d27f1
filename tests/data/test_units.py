import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidlm.data.tokenizer import ByteTokenizer, load_tokenizer
from braidlm.data.units import unit_marks, units_of

T = ByteTokenizer()
TEXTS = st.text(st.sampled_from("aB1. !?\n東é\"'"), min_size=1).filter(str.strip)


@given(TEXTS)
def test_units_are_the_text_cut(text):
    units = units_of(text)
    assert "".join(units) == text
    assert all(unit.strip() for unit in units)


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("Dr. A. Smith came. He left!  Why? ", ["Dr. A. Smith came.", " He left!", "  Why? "]),
        ("one sentence alone", ["one", " sentence", " alone"]),
        ("word", ["word"]),
    ],
)
def test_units_are_sentences_or_the_words_of_a_single_one(text, units):
    assert units_of(text) == units


@given(TEXTS)
def test_marks_are_where_units_end_in_bytes(text):
    marks = unit_marks(text, T.encode(text), T)
    ends = np.cumsum([len(unit.encode()) for unit in units_of(text)])
    assert (np.flatnonzero(marks) + 1).tolist() == ends.tolist()


class Swallowing(ByteTokenizer):
    """Makes one token of ". H": a unit's end lies inside it."""

    def encode(self, text: str) -> np.ndarray:
        return super().encode(text.replace(". H", "\x01"))


def test_a_token_across_two_sentences_ends_none(bpe_file):
    text = "It is. He was. So it is."
    ids = Swallowing().encode(text)
    assert (np.flatnonzero(unit_marks(text, ids, Swallowing())) + 1).tolist() == [12, len(ids)]
    tokenizer = load_tokenizer(bpe_file)
    ids = tokenizer.encode(text)
    ends = np.flatnonzero(unit_marks(text, ids, tokenizer)) + 1
    assert [tokenizer.decode(ids[:end]) for end in ends] == ["It is.", "It is. He was.", text]

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidlm.data.packing import IGNORE, Packing, Piece, fill_row

PAD = -7

documents = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def pack(lengths, seq_len, order=None):
    """Pack documents whose tokens are all different: token = 1000 * document + place."""
    lengths = np.asarray(lengths)
    packing = Packing(lengths, seq_len, order)

    def read(document, start, stop):
        assert stop <= lengths[document]
        return 1000 * document + np.arange(start, stop)

    rows = [fill_row(packing.pieces(r), lengths, read, seq_len, PAD) for r in range(packing.n_rows)]
    return packing, rows


@given(documents, st.integers(1, 50), st.randoms())
def test_no_token_and_no_pair_is_lost_or_doubled(lengths, seq_len, random):
    order = np.array(random.sample(range(len(lengths)), len(lengths)))
    packing, rows = pack(lengths, seq_len, order)
    stream = [1000 * d + i for d in order.tolist() for i in range(lengths[d])]
    tokens = np.concatenate([r.tokens for r in rows])
    assert tokens[: len(stream)].tolist() == stream
    assert (tokens[len(stream) :] == PAD).all()
    assert len(tokens) - len(stream) < seq_len
    assert packing.n_tokens == len(stream)
    pairs = [
        (int(t), int(y))
        for r in rows
        for t, y in zip(r.tokens, r.targets, strict=True)
        if y != IGNORE
    ]
    wanted = {(1000 * d + i, 1000 * d + i + 1) for d, n in enumerate(lengths) for i in range(n - 1)}
    assert len(pairs) == len(wanted)
    assert set(pairs) == wanted


@given(documents, st.integers(1, 50))
def test_pieces_say_what_the_row_holds(lengths, seq_len):
    _, rows = pack(lengths, seq_len)
    for row in rows:
        at = 0
        for document, start, stop in row.pieces:
            assert stop > start
            part = row.tokens[at : at + stop - start]
            assert part.tolist() == [1000 * document + i for i in range(start, stop)]
            at += stop - start
        assert (row.tokens[at:] == PAD).all()
        assert (row.targets[at:] == IGNORE).all()


def test_a_document_longer_than_several_rows():
    _, rows = pack([3, 11, 1], 4)
    assert [r.pieces for r in rows] == [
        (Piece(0, 0, 3), Piece(1, 0, 1)),
        (Piece(1, 1, 5),),
        (Piece(1, 5, 9),),
        (Piece(1, 9, 11), Piece(2, 0, 1)),
    ]
    assert rows[0].targets.tolist() == [1, 2, IGNORE, 1001]
    assert rows[1].targets.tolist() == [1002, 1003, 1004, 1005]
    assert rows[3].tokens.tolist() == [1009, 1010, 2000, PAD]
    assert rows[3].targets.tolist() == [1010, IGNORE, IGNORE, IGNORE]


@pytest.mark.parametrize("seq_len", [1, 2, 5])
def test_documents_of_one_token_have_no_target(seq_len):
    packing, rows = pack([1, 1, 1, 1, 1], seq_len)
    assert packing.n_rows == -(-5 // seq_len)
    assert all((r.targets == IGNORE).all() for r in rows)


def test_nothing_to_pack():
    assert Packing(np.zeros(0, dtype=np.int64), 8).n_rows == 0

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from braidlm.errors import InputError
from braidlm.segments import Segments, check_segments, token_positions

rows_of_lengths = st.lists(
    st.lists(st.integers(1, 9), min_size=0, max_size=5), min_size=1, max_size=4
).filter(lambda rows: any(rows))


@given(rows_of_lengths, st.integers(0, 4))
def test_packing_loses_no_token_and_keeps_documents_contiguous(rows, spare):
    total = max(sum(row) for row in rows) + spare
    built = Segments.from_lengths(rows, total)
    assert built.shape == (len(rows), total)
    assert built.spans == tuple(
        (r, sum(row[:i]), n) for r, row in enumerate(rows) for i, n in enumerate(row)
    )
    for d, (row, start, length) in enumerate(built.spans):
        here = built.doc == d
        assert int(here.sum()) == length
        assert bool(here[row, start : start + length].all())
        assert built.position[here].tolist() == list(range(length))
    assert int((built.doc < 0).sum()) == len(rows) * total - sum(map(sum, rows))


@given(rows_of_lengths)
def test_cu_seqlens_cut_the_real_tokens_into_the_documents(rows):
    built = Segments.from_lengths(rows)
    offsets = built.cu_seqlens
    assert offsets.dtype == torch.int32
    real = built.doc[built.is_real]
    pieces = [real[a:b] for a, b in itertools.pairwise(offsets.tolist())]
    assert [p.tolist() for p in pieces] == [[d] * n for d, (_, _, n) in enumerate(built.spans)]
    assert int(offsets[-1]) == len(real)
    assert built.max_length == max(n for row in rows for n in row)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), min_size=1, max_size=4))
def test_a_mask_gives_one_document_per_row_with_padding_on_either_side(rows):
    width = max(a + b for a, b in rows)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for r, (left, length) in enumerate(rows):
        mask[r, left : left + length] = True
    built = Segments.from_mask(mask)
    assert built.spans == tuple((r, left, length) for r, (left, length) in enumerate(rows))
    assert torch.equal(built.is_real, mask)
    assert all(built.doc[r, left] == r for r, (left, _) in enumerate(rows))


@given(rows_of_lengths, st.integers(1, 50))
def test_document_ids_of_any_numbering_give_the_same_documents(rows, step):
    built = Segments.from_lengths(rows)
    renumbered = torch.where(built.is_real, built.doc * step + 3, -1)
    again = Segments.from_doc_ids(renumbered)
    for name in ("doc", "position", "rows", "starts", "lengths"):
        assert torch.equal(getattr(built, name), getattr(again, name)), name


def test_equal_ids_in_separate_runs_are_separate_documents():
    built = Segments.from_doc_ids(torch.tensor([[0, 0, 1, 0], [0, -1, -1, 0]]))
    assert built.doc.tolist() == [[0, 0, 1, 2], [3, -1, -1, 4]]
    assert built.position.tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]]


def test_positions_go_on_from_what_each_document_has_seen():
    built = Segments.from_doc_ids(torch.tensor([[0, 0, 1, -1], [5, 5, 5, 5]]))
    seen = torch.tensor([10, 20, 30])
    got = token_positions(2, 4, built, seen, torch.device("cpu"))
    assert got[built.is_real].tolist() == [10, 11, 20, 30, 31, 32, 33]
    whole = token_positions(2, 3, None, torch.tensor([4, 0]), torch.device("cpu"))
    assert whole.tolist() == [[4, 5, 6], [0, 1, 2]]


def test_moving_to_a_device_keeps_every_field():
    built = Segments.from_lengths([[2, 3], [4]])
    moved = built.to("meta")
    assert moved.doc.device.type == moved.lengths.device.type == "meta"
    assert built.to("cpu").spans == built.spans


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: Segments.from_lengths([[2, 0]]), "less than one"),
        (lambda: Segments.from_lengths([[4, 4]], 7), "total=7"),
        (lambda: Segments.from_lengths([]), "total=0"),
        (lambda: Segments.from_mask(torch.tensor([[True, False, True]])), "row 0 has 2 runs"),
        (lambda: Segments.from_mask(torch.tensor([[True], [False]])), "row 1 has 0 runs"),
        (lambda: Segments.from_mask(torch.ones(2, 3)), "float32"),
        (lambda: Segments.from_doc_ids(torch.tensor([[0, -2]])), "-2"),
        (lambda: Segments.from_doc_ids(torch.tensor([0, 1])), r"\(2,\)"),
        (lambda: Segments.from_doc_ids(torch.tensor([[0.5]])), "integers"),
    ],
)
def test_what_cannot_be_packed_is_refused_by_name(build, word):
    with pytest.raises(InputError, match=word):
        build()


def test_segments_of_another_batch_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 5\).*\(2, 5\)"):
        check_segments(Segments.from_lengths([[5]]), 2, 5)
    assert check_segments(None, 3, 5) == 3


def test_doubled_documents_are_those_of_doubled_ids():
    ids = torch.tensor([[-1, 0, 0, 1], [2, 2, 2, -1]])
    doubled = Segments.from_doc_ids(ids).doubled
    expected = Segments.from_doc_ids(ids.repeat_interleave(2, dim=1))
    for name in ("doc", "position", "rows", "starts", "lengths"):
        assert torch.equal(getattr(doubled, name), getattr(expected, name)), name
    assert doubled.spans == ((0, 2, 4), (0, 6, 2), (1, 0, 6))

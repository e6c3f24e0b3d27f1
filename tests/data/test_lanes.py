"""Lanes: rows go on where they ended, documents are read whole, any step without the others."""

import numpy as np
import pytest
import torch

from braidlm.arch.experiment import DataConfig
from braidlm.data.lanes import LaneMixture
from braidlm.errors import InputError


def data(folder, n=13, **source) -> DataConfig:
    generator = np.random.default_rng(4)
    path = folder / "text.txt"
    letters = list("abcdefgh")
    lines = ["".join(generator.choice(letters, generator.integers(1, 40))) for _ in range(n)]
    path.write_text("\n".join(lines))
    text = {"kind": "text", "path": str(path), "documents": "line"} | source
    plain = {"sources": [text], "cache_dir": str(folder / "cache"), "held_out": 0.0, "seq_len": 7}
    return DataConfig.of(plain)


@pytest.fixture
def lanes(tmp_path):
    return LaneMixture(data(tmp_path), batch_size=3, seed=5)


def rows(mixture, lane, steps):
    return [mixture._lanes[lane].row(step) for step in range(steps)]


def documents(mixture):
    split = mixture.rows.streams[0].shards.train
    return [tuple(split.read(i, 0, int(n))) for i, n in enumerate(split.lengths)]


def test_an_epoch_of_all_lanes_reads_every_document_once_and_whole(lanes):
    for epoch in range(2):
        found = []
        for lane in range(3):
            steps = lanes._lanes[lane].rows_per_epoch
            read = [lanes._lanes[lane].row(epoch * steps + step) for step in range(steps)]
            for row in read:
                at = 0
                for piece in row.pieces:
                    count = piece.stop - piece.start
                    tokens = tuple(row.tokens[at : at + count])
                    if piece.start == 0:
                        found.append(tokens)
                    else:  # behind what the lane has just read
                        found[-1] += tokens
                    at += count
        assert sorted(found) == sorted(documents(lanes))


def test_epochs_have_other_orders_and_lanes_their_own_documents(lanes):
    steps = lanes._lanes[0].rows_per_epoch
    firsts = [
        [p.document for row in rows(lanes, 0, 2 * steps)[k:][:steps] for p in row.pieces]
        for k in (0, steps)
    ]
    assert firsts[0] != firsts[1]
    assert set(firsts[0]) == set(firsts[1])
    others = {p.document for row in rows(lanes, 1, steps) for p in row.pieces}
    assert not others & set(firsts[0])


def test_a_batch_says_who_goes_on_and_targets_cross_the_edge(lanes):
    for step in range(20):
        before, batch = (lanes.batch(step - 1) if step else None), lanes.batch(step)
        for lane, goes_on in enumerate(batch.continues.tolist()):
            piece = lanes._lanes[lane].row(step).pieces[0]
            assert goes_on == (piece.start > 0)
            if not goes_on:
                assert batch.tokens[lane, 0] == 256  # bos
            if before is not None:
                target = int(before.targets[lane, -1])
                assert target == (int(batch.tokens[lane, 0]) if goes_on else -100)


def test_a_step_needs_no_other_and_parts_make_the_whole(lanes, tmp_path):
    again = LaneMixture(data(tmp_path), batch_size=3, seed=5)
    wanted = [lanes.batch(step) for step in range(12)]
    for step in (11, 3, 0, 7):
        found = again.batch(step)
        assert torch.equal(found.tokens, wanted[step].tokens)
        assert torch.equal(found.continues, wanted[step].continues)
        parts = [again.batch(step, 0, 1), again.batch(step, 1, 3)]
        assert torch.equal(torch.cat([p.continues for p in parts]), found.continues)
        assert torch.equal(torch.cat([p.targets for p in parts]), found.targets)
    other = LaneMixture(data(tmp_path), batch_size=3, seed=6)
    assert any(not torch.equal(other.batch(s).tokens, wanted[s].tokens) for s in range(3))
    with pytest.raises(ValueError, match="rows 0 to 4"):
        lanes.batch(0, 0, 4)


def test_lanes_are_divided_among_sources_by_weight(tmp_path):
    one = data(tmp_path).model_dump(mode="json", exclude_none=True)
    two = one["sources"][0] | {"name": "more", "weight": 3.0}
    mixed = DataConfig.of(one | {"sources": [one["sources"][0], two]})
    batch = LaneMixture(mixed, batch_size=4, seed=1).batch(9)
    assert sorted(batch.row_sources) == ["more", "more", "more", "text"]
    with pytest.raises(InputError, match="source 'text' has no lane of its own; raise batch_size"):
        LaneMixture(mixed, batch_size=1)


def test_tokens_are_counted_once_however_often_they_are_read(lanes):
    split = lanes.rows.streams[0].shards.train
    whole = int(split.lengths.sum())
    for steps in (0, 1, 5, 12, 40):
        shown = {
            (piece.document, place)
            for lane in range(3)
            for row in rows(lanes, lane, steps)
            for piece in row.pieces
            for place in range(piece.start, piece.stop)
        }
        assert lanes.unique_tokens({"text": 3 * steps}) == {"text": len(shown)}
    assert lanes.unique_tokens({"text": 300}) == {"text": whole}


def test_fewer_documents_than_lanes_are_refused(tmp_path):
    with pytest.raises(InputError, match="'text' has 2 documents to train on and 3 lanes"):
        LaneMixture(data(tmp_path, n=2), batch_size=3)

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from braidlm.arch.experiment import DataConfig, TextSource
from braidlm.arch.symbols import MQARSource
from braidlm.data.mixture import Mixture
from braidlm.data.prepare import build, held_out_documents, open_text
from braidlm.data.streams import RowMixture, TextStream
from braidlm.data.symbol_items import eval_mqar_items
from braidlm.data.symbol_stream import SymbolStream
from braidlm.data.tokenizer import ByteTokenizer
from braidlm.errors import InputError

from .conftest import write_jsonl

RECALL = MQARSource(weight=0.25, vocab_size=32, n_pairs=(2, 4), length=20, token_offset=259)


@pytest.fixture
def data(corpus, tmp_path):
    text = TextSource(path=str(corpus), weight=0.75)
    return DataConfig(
        seq_len=64, sources=(text, RECALL), held_out=0.2, cache_dir=str(tmp_path / "shards")
    )


def same(a, b):
    assert torch.equal(a.tokens, b.tokens)
    assert torch.equal(a.targets, b.targets)
    assert torch.equal(a.segments.doc, b.segments.doc)
    assert a.row_sources == b.row_sources


def test_a_batch_does_not_depend_on_those_before(data):
    walked = Mixture(data, batch_size=8, seed=3)
    for step in range(57):
        walked.batch(step)
    same(walked.batch(57), Mixture(data, batch_size=8, seed=3).batch(57))
    # Going back is as good as going on.
    same(walked.batch(2), Mixture(data, batch_size=8, seed=3).batch(2))


def test_seeds_and_steps_give_other_batches(data):
    m = Mixture(data, batch_size=4, seed=0)
    batches = [m.batch(0), m.batch(1), Mixture(data, batch_size=4, seed=1).batch(0)]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (batches[a].tokens != batches[b].tokens).float().mean() > 0.5


def test_slices_and_batch_sizes_cut_one_stream(data):
    whole = Mixture(data, batch_size=12, seed=0)
    parts = [whole.batch(2, start, start + 4) for start in (0, 4, 8)]
    assert torch.equal(torch.cat([p.tokens for p in parts]), whole.batch(2).tokens)
    assert sum(p.n_targets for p in parts) == whole.batch(2).n_targets
    smaller = Mixture(data, batch_size=4, seed=0)
    same(smaller.batch(7), parts[1])


def test_counts_and_segments_agree_with_the_tokens(data):
    m = Mixture(data, batch_size=40, seed=0)
    batch = m.batch(0)
    assert batch.source_counts == {"text": 30, "mqar": 10}
    assert batch.n_tokens == int(batch.segments.is_real.sum())
    assert batch.n_targets == int((batch.targets != -100).sum())
    assert int(batch.tokens.max()) < m.vocab_size == 259 + 32
    for row, start, length in batch.segments.spans:
        tokens = batch.tokens[row, start : start + length]
        targets = batch.targets[row, start : start + length]
        if batch.row_sources[row] == "mqar":
            assert length == 20
            assert int(tokens.min()) >= 259
            assert int((targets != -100).sum()) in (2, 4)
            continue
        # Inside a document each target is the next token; bos only opens, eos only closes.
        assert torch.equal(targets[:-1], tokens[1:])
        assert not (tokens[1:] == 256).any()
        assert not (tokens[:-1] == 257).any()
        assert (int(targets[-1]) == -100) == (int(tokens[-1]) == 257)


def test_an_epoch_is_every_token_once(data):
    m = RowMixture(data, seed=0)
    stream = m.streams[0]
    assert isinstance(stream, TextStream)
    n = stream.rows_per_epoch
    wanted = Counter()
    for document in stream.shards.train.documents():
        tokens = document.tokens.tolist()
        wanted.update(pairwise(tokens))
    orders = []
    for epoch in (0, 1):
        rows = [stream.row(epoch * n + i) for i in range(n)]
        pairs = Counter()
        for row in rows:
            learnt = row.targets != -100
            pairs.update(
                zip(row.tokens[learnt].tolist(), row.targets[learnt].tolist(), strict=True)
            )
        assert pairs == wanted
        orders.append([row.pieces for row in rows])
    assert orders[0] != orders[1]
    assert set(orders[0]) != set(orders[1])
    # Rows are shuffled too: hardly one goes on where the row before it ended.
    for order in orders:
        goes_on = [a[-1].document == b[0].document for a, b in pairwise(order)]
        assert len(goes_on) > 30
        assert sum(goes_on) < 0.2 * len(goes_on)


def test_training_never_sees_a_held_out_document(data):
    held = {d.id for d in held_out_documents(data, "text")}
    stream = RowMixture(data).streams[0]
    assert isinstance(stream, TextStream)
    assert len(held) > 10
    assert not held & set(stream.shards.train.ids)
    rows = (stream.row(i) for i in range(2 * stream.rows_per_epoch))
    seen = {stream.shards.train.ids[p.document] for row in rows for p in row.pieces}
    assert seen == set(stream.shards.train.ids)


def test_held_out_documents_are_whole_and_in_a_seeded_order(data):
    all_of_them = list(held_out_documents(data, "text"))
    few = list(held_out_documents(data, "text", limit=5))
    assert [d.id for d in few] == [d.id for d in all_of_them[:5]]
    assert [d.id for d in held_out_documents(data, "text", seed=1)] != [d.id for d in all_of_them]
    t = ByteTokenizer()
    for d in few:
        assert (d.tokens[0], d.tokens[-1]) == (t.bos_id, t.eos_id)
        assert len(t.decode(d.tokens).encode()) == d.n_bytes == len(d.tokens) - 2


def test_recall_items_fill_a_row_and_are_never_cut():
    stream = SymbolStream(RECALL, 64, seed=0)
    row = stream.row(5)
    assert [tuple(p) for p in row.pieces] == [(15, 0, 20), (16, 0, 20), (17, 0, 20)]
    assert row.tokens[60:].tolist() == [259] * 4
    items = np.concatenate([stream.row(i).tokens[:60].reshape(3, 20) for i in range(400)])
    assert len(np.unique(items, axis=0)) == 1200
    counts = Counter(int((stream.row(i).targets != -100).sum()) for i in range(400))
    assert set(counts) == {6, 8, 10, 12}
    assert 180 < sum(n * (k - 6) / 2 / 3 for k, n in counts.items()) < 220


def test_recall_for_evaluation_is_another_stream():
    # As many items of one kind as a training block holds: one shared seed would give one block.
    source = RECALL.model_copy(update={"n_pairs": (4,)})
    stream = SymbolStream(source, 20, seed=0)
    train = {tuple(stream.row(i).tokens.tolist()) for i in range(2048)}
    items = eval_mqar_items(source, 256, n_pairs=4, seed=0)
    assert not train & {tuple(t) for t in items.tokens.tolist()}
    again = eval_mqar_items(source, 256, n_pairs=4, seed=0)
    np.testing.assert_array_equal(items.tokens, again.tokens)
    assert eval_mqar_items(RECALL, 3, n_pairs=4, length=40).tokens.shape == (3, 40)


def test_an_item_longer_than_a_row_is_refused():
    with pytest.raises(InputError, match=r"length = 20 is longer than seq_len = 19"):
        SymbolStream(RECALL, 19, seed=0)


def test_generated_data_needs_no_tokenizer_and_no_folder(tmp_path):
    source = MQARSource(vocab_size=16, n_pairs=(2,), length=10)
    config = DataConfig(
        tokenizer="missing.json", seq_len=32, sources=(source,), cache_dir=str(tmp_path / "no")
    )
    m = Mixture(config, batch_size=2)
    assert m.vocab_size == 16
    assert int(m.batch(0).tokens.max()) < 16
    assert m.batch(0).n_tokens == 60
    assert build(config)["tokenizer"] is None
    assert not (tmp_path / "no").exists()


def test_adding_a_source_leaves_the_others_as_they_were(data):
    alone = data.model_copy(update={"sources": data.sources[:1]})
    a, b = RowMixture(data, seed=5).streams[0], RowMixture(alone, seed=5).streams[0]
    for i in range(20):
        np.testing.assert_array_equal(a.row(i).tokens, b.row(i).tokens)


def test_empty_halves_are_named(tmp_path):
    path = write_jsonl(tmp_path / "one.jsonl", ["only this"])
    config = DataConfig(sources=(TextSource(path=str(path)),), cache_dir=str(tmp_path), held_out=0)
    with pytest.raises(InputError, match=r"source 'text' has no held-out document"):
        held_out_documents(config, "text")
    most = config.model_copy(update={"held_out": 1 - 1e-12})
    with pytest.raises(InputError, match=r"source 'text' has no document to train on"):
        Mixture(most)
    with pytest.raises(InputError, match=r"'mqar' is no text source of this recipe; allowed: text"):
        open_text(config, "mqar")


def test_steps_and_rows_out_of_range(data):
    m = Mixture(data, batch_size=4)
    for arguments in ((-1,), (0, 2, 2), (0, 0, 5), (0, -1, 2)):
        with pytest.raises(ValueError, match="step"):
            m.batch(*arguments)
    with pytest.raises(InputError, match="batch_size = 0"):
        Mixture(data, batch_size=0)


def test_build_tells_what_is_there(data, tmp_path):
    summary = build(data, tmp_path / "elsewhere")
    text, recall = summary["sources"]
    assert recall == {"name": "mqar", "kind": "mqar", "length": 20}
    assert text["train"]["documents"] + text["held_out"]["documents"] == 120
    # Bytes of text plus bos and eos of each document.
    assert text["train"]["tokens"] == text["train"]["bytes"] + 2 * text["train"]["documents"]
    assert build(data, tmp_path / "elsewhere") == summary
    assert not (tmp_path / "shards").exists()


def test_rows_are_the_same_on_every_machine(data):
    # Sealed: a change here changes the data of every run that is to be repeated.
    batch = Mixture(data, batch_size=6, seed=11).batch(9)
    place = torch.arange(1, 1 + 6 * 64, dtype=torch.int64).view(6, 64)
    assert (batch.row_sources.count("mqar"), int((batch.tokens * place).sum())) == SEALED


SEALED = (2, 11109863)

import numpy as np
import pytest

from braidlm.arch.experiment import DataConfig
from braidlm.arch.symbols import BASELINES, CopyingSource, MADSource, MQARSource
from braidlm.data.inspection import inspect
from braidlm.data.packing import IGNORE
from braidlm.data.streams import RowMixture
from braidlm.data.symbol_items import eval_mqar_items, eval_symbols, levels_of
from braidlm.data.symbol_stream import SymbolStream
from braidlm.errors import InputError

MAD = [MADSource(task=task, token_offset=7) for task in BASELINES]
COPYING = [
    CopyingSource(n_symbols=(4, 9), token_offset=3),
    CopyingSource(n_symbols=(9,), n_gram=2, n_answer=3),
]
MQAR = [
    MQARSource(n_updates=3),
    MQARSource(key_parts=2, n_pairs=(4, 9)),
    MQARSource(num_passes=2, shuffle_passes=True),
]
SOURCES = [*MAD, *COPYING, *MQAR]


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: getattr(s, "task", s.kind))
def test_a_row_holds_whole_items_and_depends_on_its_number_alone(source):
    seq_len = 2 * source.length + 3
    stream = SymbolStream(source, seq_len, seed=0)
    rows = [stream.row(i) for i in (0, 200, 0)]
    again = SymbolStream(source, seq_len, seed=0).row(200)
    np.testing.assert_array_equal(rows[1].tokens, again.tokens)
    np.testing.assert_array_equal(rows[0].targets, rows[2].targets)
    assert (rows[0].tokens != rows[1].tokens).any()
    for row in rows:
        assert [piece.stop for piece in row.pieces] == [source.length] * 2
        assert row.tokens.min() >= source.token_offset
        assert row.tokens.max() < source.token_offset + source.vocab_size == stream.vocab_size
        assert (row.targets[2 * source.length :] == IGNORE).all()
        assert (row.targets != IGNORE).any()


def items_of(source, seed=0):
    level = source.length if isinstance(source, MADSource) else levels_of(source)[0]
    if isinstance(source, MQARSource):
        return eval_mqar_items(source, 40, n_pairs=level, seed=seed)
    return eval_symbols(source, 40, level, seed)


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: getattr(s, "task", s.kind))
def test_no_training_seed_reaches_what_is_tested(source):
    if source.kind == "copying" and source.n_gram == 0:
        source = source.model_copy(update={"n_symbols": (9,)})
    asked = items_of(source)
    np.testing.assert_array_equal(asked.tokens, items_of(source).tokens)
    assert (asked.tokens != items_of(source, 1).tokens).any()
    tested = {row.tobytes() for row in asked.tokens}
    for seed in range(3):
        stream = SymbolStream(source, source.length, seed)
        assert not tested & {stream.row(i).tokens.tobytes() for i in range(100)}


def test_the_recall_tasks_learn_every_token_if_told():
    for learn_all in (True, False):
        source = MADSource(learn_all=learn_all)
        row = SymbolStream(source, source.length, 0).row(0)
        if learn_all:
            np.testing.assert_array_equal(row.targets[:-1], row.tokens[1:])
        else:
            assert (row.targets[1::2] == IGNORE).all()
    sign = SymbolStream(MADSource(task="compression"), 62, 0).row(0)
    assert (sign.targets[:31] == IGNORE).all()


def test_sources_join_a_mixture_and_are_shown():
    data = DataConfig(seq_len=300, sources=(*MAD[:1], *COPYING[:1], *MQAR[1:2]))
    mixture = RowMixture(data)
    assert {mixture.row(i).source for i in range(9)} == {0, 1, 2}
    shown = inspect(data, 3)
    kinds = {row["kind"]: row["pieces"][0]["text"] for row in shown}
    assert set(kinds) == {"mad", "copying", "mqar"}
    assert "->v" in kinds["mad"]
    assert "|->x" in kinds["copying"]
    assert "->v" in kinds["mqar"]


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (MADSource, {"length": 127}, "length = 127: must be even"),
        (MADSource, {"task": "selective_copying", "length": 32}, "must be at least 34"),
        (MADSource, {"task": "fuzzy_in_context_recall", "vocab_size": 6}, "must be at least 7"),
        (MADSource, {"frac_noise": 0.2}, "only for noisy_in_context_recall"),
        (MADSource, {"task": "noisy_in_context_recall", "noise_vocab_size": 29}, "and 28"),
        (CopyingSource, {"n_symbols": (0,)}, "n_symbols = 0: must be at least 1"),
        (CopyingSource, {"n_gram": 5, "n_symbols": (5,)}, "n_symbols = 5: must be at least 6"),
        (CopyingSource, {"n_gram": 1, "n_symbols": (40,)}, "n_gram = 1: too few for strings of 40"),
        (MQARSource, {"key_parts": 2}, "n_pairs = 8: must be a square number"),
        (MQARSource, {"n_updates": 9}, "n_updates = 9: must be at most n_pairs = 8"),
    ],
)
def test_what_does_not_fit_is_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)


def test_an_item_longer_than_a_row_is_refused():
    with pytest.raises(InputError, match="length = 128 is longer than seq_len = 100"):
        SymbolStream(MADSource(), 100, 0)
    with pytest.raises(ValueError, match="length = 49 is longer than seq_len = 40"):
        DataConfig(seq_len=40, sources=(CopyingSource(),))


def test_the_defaults_are_those_of_the_task():
    noisy = MADSource(task="noisy_in_context_recall")
    assert (noisy.vocab_size, noisy.noise_vocab_size, noisy.frac_noise) == (32, 16, 0.2)
    assert MADSource(task="memorization").length == 32
    assert MADSource(task="memorization", length=64).vocab_size == 256

"""Recall measured on models that solve it, that cannot, and that can over a distance only."""

import math

import numpy as np
import pytest
import torch

from braidlm import state as states
from braidlm.arch import Recipe
from braidlm.arch.tasks import MQARTask
from braidlm.data.symbol_items import eval_mqar_items
from braidlm.data.symbol_stream import SymbolStream
from braidlm.data.tokenizer import ByteTokenizer
from braidlm.errors import InputError
from braidlm.generate.mode import inference
from braidlm.model import HybridLM
from braidlm.tasks import describe, run_task, scoring
from braidlm.tasks.mqar import MQARWork
from tests.tasks.models import SURE, VOCAB, Known, Lookup, Uniform, recipe

BYTES = ByteTokenizer()


@pytest.fixture
def config(tmp_path) -> Recipe:
    return recipe(tmp_path)


def _run(task: MQARTask, model: torch.nn.Module, config: Recipe) -> dict:
    return run_task(task, model, BYTES, config)


def test_a_lookup_solves_it(config):
    found = _run(MQARTask(n_items=40), Lookup(), config)
    n = 40
    assert found["metric"] == "accuracy"
    assert found["value"] == 1.0
    assert 0 < found["stderr"] < 1 / (n + 1)
    assert found["n"] == 80
    graded = found["metrics"]["graded"]
    # The counterfactual moves the logit of SURE from the answer to another value.
    assert graded["value"] == pytest.approx(SURE, abs=1e-3)
    assert graded["stderr"] < 1e-6
    assert found["metrics"]["answer_nll"]["value"] < 1e-4
    assert [row["n_pairs"] for row in found["tables"]["by_pairs"]] == [2, 4]
    assert all(row["accuracy"] == 1.0 for row in found["tables"]["by_pairs"])
    assert all(row["accuracy"] == 1.0 for row in found["tables"]["by_gap"])


def test_a_uniform_model_is_at_chance(config):
    found = _run(MQARTask(n_items=20), Uniform(), config)
    assert found["value"] == pytest.approx(1 / VOCAB, rel=1e-6)
    assert found["metrics"]["answer_nll"]["value"] == pytest.approx(math.log(VOCAB), rel=1e-6)
    assert found["metrics"]["graded"]["value"] == 0.0
    assert found["metrics"]["chance"]["value"] == 1 / 16
    assert found["metrics"]["chance"]["stderr"] is None


class Values(Known):
    """Knows which values there are in the list of pairs, and nothing of their keys."""

    n_pairs = 4

    def logits(self, tokens, segments):
        out = torch.zeros(*tokens.shape, self.vocab_size)
        values = tokens[:, 1 : 2 * self.n_pairs : 2]
        out.scatter_(2, values[:, None].expand(-1, tokens.shape[1], -1), SURE)
        return out


def test_knowing_the_values_alone_is_chance_in_context(config):
    found = _run(MQARTask(n_items=30, n_pairs=(4,)), Values(), config)
    (row,) = found["tables"]["by_pairs"]
    assert row["accuracy"] == pytest.approx(row["in_context_chance"])
    assert row["in_context_chance"] == 0.25
    # The graded measure sees it: the counterfactual takes the true value out of the context.
    assert row["graded"] == pytest.approx(SURE, abs=1e-3)


def test_graded_measures_one_random_pair_per_item(config):
    """A model that reads the first pair alone is moved where that pair is the one asked for."""

    class FirstPair(Known):
        def logits(self, tokens, segments):
            out = torch.zeros(*tokens.shape, self.vocab_size)
            out.scatter_(2, tokens[:, 1, None, None].expand(-1, tokens.shape[1], 1), SURE)
            return out

    found = _run(MQARTask(n_items=400, n_pairs=(4,)), FirstPair(), config)
    share = found["metrics"]["graded"]["value"] / SURE
    assert share == pytest.approx(0.25, abs=0.07)
    error = math.sqrt(share * (1 - share) / 399)
    assert found["metrics"]["graded"]["stderr"] / SURE == pytest.approx(error, rel=1e-3)
    assert found["value"] == pytest.approx(0.25)


def test_by_gap_shows_how_far_a_model_remembers(config):
    task = MQARTask(n_items=100, n_pairs=(2,), length=64)
    found = _run(task, Lookup(reach=16), config)
    rows = {(row["start"], row["end"]): row for row in found["tables"]["by_gap"]}
    assert all(row["accuracy"] == 1.0 for (_, end), row in rows.items() if end <= 16)
    assert rows[16, 32]["accuracy"] == pytest.approx(1 / VOCAB)
    assert rows[16, 32]["n"] > 0
    assert sum(row["n"] for row in rows.values()) == 200
    assert found["is_extrapolated"]
    assert (found["seq_len"], found["trained_seq_len"]) == (64, 24)


def test_errors_are_over_items(config):
    """Answers of one item that go together count as one."""

    class HalfOfTheItems(Lookup):
        def logits(self, tokens, segments):
            return super().logits(tokens, segments) * (tokens[:, :1, None] % 2)

    found = _run(MQARTask(n_items=60, n_pairs=(4,)), HalfOfTheItems(), config)
    items = eval_mqar_items(config.data.sources[1], 60, n_pairs=4)  # type: ignore[arg-type]
    solved = items.tokens[:, 0] % 2
    right = np.where(solved, 1.0, 1 / VOCAB)
    assert found["value"] == pytest.approx(right.mean(), rel=1e-5)
    assert found["stderr"] == pytest.approx(right.std(ddof=1) / math.sqrt(60), rel=1e-5)


def test_numbers_of_pairs_count_the_same(config):
    class Switched(Lookup):
        is_on = True

        def logits(self, tokens, segments):
            return super().logits(tokens, segments) * self.is_on

    model = Switched()
    work = MQARWork(MQARTask(n_items=10), config)
    with inference(model):
        easy = work.score(model, range(10))
        model.is_on = False
        hard = work.score(model, range(10, 20))
    found = work.summary([*easy, *hard])
    assert found["value"] == pytest.approx((1 + 1 / VOCAB) / 2)
    assert found["n"] == 20


def test_batches_change_nothing(config, monkeypatch):
    model = HybridLM(config.spec)
    whole = _run(MQARTask(n_items=9), model, config)
    monkeypatch.setattr(scoring, "TOKENS_AT_ONCE", 50)
    assert len(MQARWork(MQARTask(n_items=9), config).batches) == 2 * 5
    parts = _run(MQARTask(n_items=9), model, config)
    assert parts["value"] == whole["value"]
    assert parts["metrics"]["graded"]["value"] == pytest.approx(
        whole["metrics"]["graded"]["value"], abs=1e-5
    )


def test_items_are_the_same_for_every_run_and_not_those_of_training(config):
    source = config.data.sources[1]
    items = eval_mqar_items(source, 50, n_pairs=4)  # type: ignore[arg-type]
    asked = []

    class Listening(Uniform):
        def logits(self, tokens, segments):
            asked.append(tokens.numpy().copy())
            return super().logits(tokens, segments)

    _run(MQARTask(n_items=50, n_pairs=(4,)), Listening(), config)
    np.testing.assert_array_equal(asked[0], items.tokens)
    # The second pass differs from the first in one value of the list of pairs per item.
    changed = asked[1] != asked[0]
    assert (changed.sum(1) == 1).all()
    assert set(np.nonzero(changed)[1]) <= {1, 3, 5, 7}
    other = config.model_copy(update={"seed": 99})
    _run(MQARTask(n_items=50, n_pairs=(4,)), Listening(), other)
    np.testing.assert_array_equal(asked[2], items.tokens)
    trained = {
        tuple(SymbolStream(source, 24, seed).row(i).tokens)  # type: ignore[arg-type]
        for seed in (0, 3)
        for i in range(200)
    }
    assert not trained & {tuple(row) for row in items.tokens}


def test_cache_bytes_are_those_that_a_model_holds(config):
    model = HybridLM(config.spec)
    found = _run(MQARTask(n_items=2), model, config)["metrics"]
    with torch.no_grad():
        state = model(torch.zeros(1, 24, dtype=torch.int64)).state
    assert state is not None
    fixed, cache = state
    assert found["state_bytes"]["value"] == states.n_bytes(fixed)
    # The cache is held in fp32 here and counted in bf16.
    assert found["kv_bytes"]["value"] == states.n_bytes(cache[:2]) // 2


def test_what_cannot_be_is_refused(config):
    with pytest.raises(InputError, match="task 'recall': length = 10: must be at least 16"):
        _run(MQARTask(n_pairs=(4,), length=10), Uniform(), config)
    with pytest.raises(InputError, match=r"task 'recall': n_pairs = 16: must be between 1 and 15"):
        _run(MQARTask(n_pairs=(2, 16), length=100), Uniform(), config)
    with pytest.raises(InputError, match="'other' is no mqar source of this recipe"):
        _run(MQARTask(source="other"), Uniform(), config)


def test_an_example_is_drawn(tmp_path):
    config = recipe(tmp_path, data={"sources": [_SOURCE]}, tasks=[])
    drawn = describe(MQARTask(), config)
    assert drawn.startswith("2 pairs in 12 tokens: k")
    words = drawn.partition(": ")[2].split()
    pairs = dict(zip(words[0:4:2], words[1:4:2], strict=True))
    asked = [(words[i - 1], words[i + 1].rstrip(",")) for i, w in enumerate(words) if w == "->"]
    assert dict(asked) == pairs


_SOURCE = {
    "kind": "mqar",
    "vocab_size": 32,
    "token_offset": 5,
    "n_pairs": [2],
    "length": 12,
    "random_non_queries": False,
}

"""Likelihoods of continuations against one plain forward pass for each of them."""

import numpy as np
import pytest
import torch

from braidlm.arch import Spec
from braidlm.generate.mode import inference
from braidlm.laws.lively import enliven
from braidlm.model import HybridLM
from braidlm.tasks import likelihood
from braidlm.tasks.likelihood import Pair, batches, likelihoods
from tests.specs import LENT, META, MUP, PARALLEL, SINGLE, WHOLE, WIRED, spec

SPECS: dict[str, Spec] = {
    **{f"one: {name}": value for name, value in SINGLE.items()},
    **{f"both: {name}": value for name, value in PARALLEL.items()},
    **{f"wired: {name}": value for name, value in WIRED.items()},
    **WHOLE,
    **LENT,
    **META,
    **MUP,
}
FEW = ["M-*-", "{M*}-", "G-W-"]


def _pairs(rng: np.random.Generator) -> list[Pair]:
    """Questions of several lengths with two or three options, of one token and of several."""
    found = []
    for length, counts in ((9, (1, 3, 5)), (23, (2, 2)), (4, (1, 1)), (17, (6,))):
        context = rng.integers(31, size=length)
        found += [Pair(context, rng.integers(31, size=n)) for n in counts]
    return [found[i] for i in rng.permutation(len(found))]


def _alone(model: HybridLM, pair: Pair) -> tuple[float, bool]:
    """One forward pass over the whole, no state, no batch."""
    tokens = torch.from_numpy(np.concatenate(pair))[None]
    with inference(model):
        logits = model.head(model(tokens[:, :-1]).hidden)[0].double()
    wanted = tokens[0, len(pair.context) :]
    logits = logits[-len(wanted) :]
    chosen = logits.log_softmax(-1).gather(-1, wanted[:, None]).sum()
    return float(chosen), bool((logits.argmax(-1) == wanted).all())


def _check(model_spec: Spec) -> None:
    model = HybridLM(model_spec)
    enliven(model)
    model.double()
    pairs = _pairs(np.random.default_rng(0))
    with inference(model):
        found = likelihoods(model, pairs)
    for pair, one in zip(pairs, found, strict=True):
        logprob, is_greedy = _alone(model, pair)
        assert one.logprob == pytest.approx(logprob, abs=1e-8)
        assert one.is_greedy == is_greedy


@pytest.mark.parametrize("pattern", FEW)
def test_options_that_share_a_state_are_as_probable_as_alone(pattern):
    _check(spec(pattern, mixers={"W": {"n_heads": 4, "head_dim": 4, "window": 5}}))


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_every_architecture_may_share_a_state(name):
    _check(SPECS[name])


def test_no_batch_and_no_piece_of_logits_changes_an_answer(monkeypatch):
    model = HybridLM(spec("M-*-")).double()
    pairs = _pairs(np.random.default_rng(1))
    with inference(model):
        whole = likelihoods(model, pairs)
        monkeypatch.setattr(likelihood, "LOGITS_AT_ONCE", 62)
        counts: list[int] = []
        small = likelihoods(model, pairs, 3, counts.append)
    assert counts == [3, 3, 2]  # the options of a context stay together, the longest first
    for a, b in zip(whole, small, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-10)
        assert a.is_greedy == b.is_greedy


def test_what_is_greedy_is_said_so():
    model = HybridLM(spec("M-*-"))
    enliven(model)
    context = np.arange(7)
    with inference(model):
        tokens = torch.from_numpy(context)[None]
        said = []
        for _ in range(3):
            said.append(int(model.head(model(tokens).hidden[:, -1]).argmax()))
            tokens = torch.cat([tokens, torch.tensor([[said[-1]]])], 1)
        other = [*said[:2], (said[2] + 1) % 31]
        pairs = [Pair(context, np.array(x)) for x in (said, said[:1], other, other[2:])]
        found = likelihoods(model, pairs)
    assert [one.is_greedy for one in found] == [True, True, False, other[2:] == said[:1]]


def test_a_batch_counts_the_states_that_its_options_copy(monkeypatch):
    monkeypatch.setattr(likelihood, "TOKENS_AT_ONCE", 40)
    several = [Pair(np.arange(8) + i, np.zeros(2, np.int64)) for i in range(3) for _ in range(2)]
    assert [len(b) for b in batches(several)] == [2, 1]
    single = [Pair(np.arange(9) + i, np.zeros(1, np.int64)) for i in range(5) for _ in range(4)]
    assert [len(b) for b in batches(single)] == [4, 1]
    assert [len(b) for b in batches(single, 8)] == [2, 2, 1]
    assert [[len(g) for g in b] for b in batches(single[:4], 3)] == [[3], [1]]
    one_context = [Pair(np.arange(1), np.zeros(n, np.int64)) for n in (9, 20, 4, 18, 30)]
    assert list(batches(one_context)) == [[[4]], [[1]], [[3, 0]], [[2]]]

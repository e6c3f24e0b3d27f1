"""Ranks, norms and read-outs of models whose states are known."""

from typing import Any

import numpy as np
import pytest
import torch

from braidlm.analysis import state_use
from braidlm.analysis.inputs import Asked, Document, Inputs
from braidlm.analysis.instrument import Subject
from braidlm.analysis.state_use import Symbols, matrices_of, prompts_of, recovered, symbols_of
from braidlm.data.tokenizer import load_tokenizer
from braidlm.errors import InputError
from braidlm.generate.mode import inference
from braidlm.model import HybridLM
from tests.analysis.known import mixer_of
from tests.specs import spec

BYTES = load_tokenizer("bytes")


def inputs(n=3, length=16, vocab=31):
    rng = np.random.default_rng(0)
    documents = [Document(str(i), rng.integers(vocab, size=length)) for i in range(n)]
    return Inputs("", "text", {}, documents)


def measured(model, given=None):
    with inference(model):
        return state_use.run(Subject(model, given or inputs()), lambda done, total: None)


@torch.no_grad()
def constant_writes(decay):
    """Mamba-2 whose every token writes the same matrix of rank one, whatever the token is.

    The state is then sum_d decay^d of it: its norm follows from the decay alone.
    """
    model = HybridLM(spec("M")).eval()
    mixer: Any = mixer_of(model)
    mixer.in_proj.weight.zero_()
    mixer.conv_weight.zero_()
    mixer.conv_bias.fill_(1.0)
    mixer.dynamics.dt_bias.fill_(0.0)  # dt = ln 2
    mixer.dynamics.A_log.copy_(torch.full((4,), -np.log(decay) / np.log(2.0)).log())
    return model


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999999])
def test_rank_norm_and_growth_of_a_state_of_constant_writes(decay):
    found = measured(constant_writes(decay))
    rows = found.tables["by_position"]
    norms = [row["norm"] for row in rows]
    for row, n in zip(rows, (2, 4, 8, 16), strict=True):
        assert row["rank"] == pytest.approx(1, abs=1e-4)
        want = (1 - decay**n) / (1 - decay**16)
        assert row["norm"] / norms[-1] == pytest.approx(want, rel=1e-3)
    growth = np.log2((1 - decay**16) / (1 - decay**8))
    assert found.metrics["growth"]["value"] == pytest.approx(growth, abs=1e-3)
    # What does not depend on the tokens tells nothing of them.
    assert found.metrics["recovered"]["value"] < 1


@torch.no_grad()
def test_a_state_of_orthogonal_writes_gives_its_pairs_back():
    """A convolution of two tokens writes the outer product of a value and the key before it."""
    n_keys, n_values = 8, 8
    mamba = {"n_heads": 1, "head_dim": 32, "d_state": 32, "d_conv": 2, "norm": "none"}
    model = HybridLM(spec("M", d_model=32, mixers={"M": mamba})).eval()
    model.embedding.weight.copy_(torch.eye(32)[:31])
    mixer: Any = mixer_of(model)
    _, x, b, *_ = mixer.in_proj.weight.split([32, 32, 32, 32, 1])
    mixer.in_proj.weight.zero_()
    x.copy_(torch.eye(32))
    b.copy_(torch.eye(32))
    mixer.conv_bias.zero_()
    mixer.conv_weight.zero_()
    mixer.conv_weight[:32, -1] = 1  # x: this token
    mixer.conv_weight[32:64, 0] = 1  # B: the one before it
    mixer.dynamics.A_log.fill_(-20.0)
    symbols = Symbols(np.arange(n_keys), np.arange(n_keys, n_keys + n_values), None)
    with inference(model):
        row = recovered(Subject(model, inputs()), symbols, n_keys)["0"]
    assert row["recovered"] > 0.95 * n_keys
    assert row["n_floats"] == 32 * 32
    # A state that forgets at once holds the last pair alone.
    mixer.dynamics.A_log.fill_(3.0)
    mixer.dynamics.dt_bias.fill_(0.0)
    with inference(model):
        forgetful = recovered(Subject(model, inputs()), symbols, n_keys)["0"]
    assert forgetful["recovered"] == pytest.approx(1, abs=0.6)


def test_prompts_show_every_key_once_with_its_value():
    symbols = Symbols(np.arange(10, 18), np.arange(20, 25), 3)
    tokens, values = prompts_of(symbols, 4, 50)
    assert tokens.shape == (50, 9)
    assert (tokens[:, 0] == 3).all()
    for prompt, value in zip(tokens[:, 1:].tolist(), values.tolist(), strict=True):
        shown = dict(zip(prompt[::2], prompt[1::2], strict=True))
        assert shown == {10 + k: 20 + v for k, v in enumerate(value)}


def test_symbols_are_those_of_the_questions_or_of_the_text():
    asked = tuple(Asked(i, (20 + i % 3,), (0, 1)) for i in range(6))
    given = Inputs("x", "recall", {}, [Document("0", np.arange(6), asked)])
    found = symbols_of(given)
    assert found.keys.tolist() == list(range(6))
    assert found.values.tolist() == [20, 21, 22]
    text = Inputs("", "text", {}, [Document("0", np.arange(40))], BYTES)
    found = symbols_of(text)
    assert not set(found.keys) & set(found.values)
    assert len(found.values) == 8
    few = Inputs("", "text", {}, [Document("0", np.arange(5))])
    with pytest.raises(InputError, match="only 5 different tokens"):
        symbols_of(few)


@pytest.mark.parametrize("pattern", ["G", "S", "{M*}-", "K-M"])
def test_every_recurrence_is_found_and_no_cache(pattern):
    model = HybridLM(spec(pattern, mixers={"K": {"kind": "kda", "n_heads": 2, "head_dim": 4}}))
    found = measured(model.eval())
    places = {row["place"] for row in found.tables["by_position"]}
    assert places == {"{M*}-": {"0.0"}, "K-M": {"0", "2"}}.get(pattern, {"0"})
    with torch.no_grad():
        state = model(torch.randint(31, (1, 9))).state
    assert matrices_of(state).keys() == places
    assert matrices_of(state, layers=()) == {}


def test_nothing_to_measure():
    assert state_use.why_not(spec("*-").sublayers) == "no layer has a recurrent state"

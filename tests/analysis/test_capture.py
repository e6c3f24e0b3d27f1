"""The walk is the model's own way, and what layers tell is what they compute."""

import pytest
import torch

from braidlm import combine
from braidlm.analysis.capture import walk
from braidlm.analysis.weights import weigh
from braidlm.laws.lively import enliven
from braidlm.mixers import MLA, attention, bmojo_f
from braidlm.mixers.delta import DeltaMixer
from braidlm.model import HybridLM
from braidlm.ops.fading import fading_attention
from braidlm.ops.latent import Expansion
from tests.specs import ALL

N_TOKENS = 13
QUICK = {
    "mamba1 in groups (Zamba), biases",
    "every option of attention",
    "latent attention, nope (Kimi Linear)",
    "kda, grouped, other ranks, no bias, silu",
    "multipliers (Falcon-H1)",
    "scale by position (HypeNet)",
    "two shared blocks (Zamba2)",
    "B'MOJO-F, untied, gated deltanet, norms, biases",
    "keys lent between branches, meta tokens (Hymba)",
    next(name for name in ALL if name.startswith("merge")),
}
assert set(ALL) >= QUICK
EVERY = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ALL]
"""A few models that have nearly every option between them, then all others."""


def lively(spec):
    model = HybridLM(spec).double().eval()
    enliven(model)
    return model


def tokens(spec):
    return torch.randint(spec.vocab_size, (1, N_TOKENS))


def parts(model, ids):
    return [part for layer in walk(model, ids) for part in layer.parts]


@pytest.mark.parametrize("name", EVERY)
@torch.no_grad()
def test_every_layer_reads_what_it_reads_in_the_model(name):
    model, read = lively(ALL[name]), []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, args: read.append(args[0].hidden))
    ids = tokens(ALL[name])
    model(ids)
    expected, read[:] = list(read), []
    for layer in walk(model, ids):
        _ = layer.parts, layer.voices if layer.parallel else None  # asking changes nothing
        assert torch.equal(layer.stream.hidden, expected[layer.index])
        assert layer.x.shape[1] == N_TOKENS + layer.n_meta


class Recorder:
    """Stands before an operator and keeps the values and the result of its last call."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, q, k, v, **settings):
        self.v, (self.o, state) = v, self.inner(q, k, v, **settings)
        return self.o, state

    def fading(self, q, own, faded, **settings):
        self.v = torch.stack((own.v, faded.v), dim=2).flatten(1, 2)
        self.o, state = fading_attention(q, own, faded, **settings)
        return self.o, state


def run_part(part):
    """Run a part as its sublayer does."""
    if part.heard:
        return part.module(list(part.heard), part.x, None, None, False)
    keys = (dict(part.keys),) if getattr(part.module, "shares_keys", False) else ()
    if part.added is None:
        return part.module(part.x, None, None, False, *keys)
    return part.module.projected(part.module.in_proj(part.x) + part.added, None, None, False, *keys)


@pytest.mark.parametrize("at_once", [60, 10**6], ids=["in blocks", "at once"])
@pytest.mark.parametrize("name", EVERY)
@torch.no_grad()
def test_weights_make_the_output_of_the_values(name, at_once, monkeypatch):
    seen = Recorder(attention.attention)
    monkeypatch.setattr(attention, "attention", seen)
    monkeypatch.setattr(combine, "attention", seen)
    monkeypatch.setattr(bmojo_f, "fading_attention", seen.fading)
    model = lively(ALL[name])
    for part in parts(model, tokens(ALL[name])):
        if (scores := part.scores()) is None:
            continue
        u, _ = run_part(part)
        if isinstance(part.module, MLA):
            entries = part.module._compared(part.module.in_proj(part.x), None, None)[1]
            up = Expansion.of(part.module.kv_up.weight, scores.q.shape[2], part.module.nope)
            v, o = up.expanded(entries)[1][0], u.unflatten(-1, (scores.q.shape[2], -1))[0]
        else:
            m = seen.o.shape[1] // scores.q.shape[1]  # of a merge only each second place is real
            v, o = seen.v[0], seen.o[0, m - 1 :: m]
        v = v.repeat_interleave(o.shape[1] // v.shape[1], dim=1)
        found = []
        for block in weigh(scores, at_once):
            here = v[block.keys * len(scores.spans) + block.streams].float()
            found.append(torch.einsum("hls,shv->lhv", block.weights, here))
            assert (block.weights[:, block.distances < 0] == 0).all()
            torch.testing.assert_close(
                block.weights.sum(-1) + block.sink, torch.ones_like(block.sink)
            )
        torch.testing.assert_close(torch.cat(found), o.float(), rtol=1e-4, atol=1e-5)
        some = torch.tensor([2, 3, len(o) - 1])
        of_some = [b.weights.sum(-1) for b in weigh(scores, at_once, some)]
        of_all = [b.weights.sum(-1) for b in weigh(scores, at_once)]
        torch.testing.assert_close(torch.cat(of_some, 1), torch.cat(of_all, 1)[:, some])


@pytest.mark.parametrize("name", EVERY)
@torch.no_grad()
def test_a_state_keeps_the_share_that_its_decays_say(name):
    model = lively(ALL[name])
    for part in parts(model, tokens(ALL[name])):
        if isinstance(part.module, DeltaMixer):
            part.module.beta_max = 0.0  # nothing is written, nothing erased: what is left decays
        told = part.forgetting()
        if told is None:
            continue
        _, empty = part.module(part.x, None, None, True)
        before = type(empty)(torch.ones_like(empty[0]), torch.zeros_like(empty[1]))
        _, after = part.module(part.x, None, before, True)
        left = torch.exp(-told.step[0].sum(0)[:, None] * told.rate)
        left = left.view(told.n_heads, -1)
        kept = (after[0] - empty[0])[0]
        if part.kind == "mamba2":
            kept = kept[:, 0, :1]
        elif part.kind in ("gated_deltanet", "kda"):
            kept = kept[:, : left.shape[1], 0]
        torch.testing.assert_close(kept.reshape(left.shape), left, rtol=1e-8, atol=1e-10)


@torch.no_grad()
def test_later_layers_do_not_run_and_chosen_ones_alone_are_seen():
    spec = ALL["one shared letter"]
    model = lively(spec)
    model.blocks[3].register_forward_pre_hook(lambda *_: pytest.fail("layer 3 ran"))
    ids = tokens(spec)
    assert [layer.index for layer in walk(model, ids, {0, 2})] == [0, 2]
    assert [layer.index for layer in walk(model, ids, {3})] == [3]
    assert list(walk(model, ids, set())) == []


@torch.no_grad()
def test_voices_are_normed_as_they_are_combined():
    spec = ALL["meta tokens before parallel branches (Hymba)"]
    model, ids = lively(spec), tokens(spec)
    for layer in walk(model, ids):
        if layer.parallel is None:
            with pytest.raises(ValueError, match="one mixer"):
                _ = layer.voices
            continue
        for branch, norm, u, v in zip(
            layer.parallel.branches, layer.parallel.norms, *layer.voices, strict=True
        ):
            torch.testing.assert_close(branch(layer.x, None, None, False)[0], u)
            torch.testing.assert_close(v, norm(u))

"""The module against its formula, its initial weights, and what its cache holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from braidlm.arch import Spec
from braidlm.arch.mixers import MLAConfig
from braidlm.arch.widen import widen
from braidlm.errors import InputError
from braidlm.mixers import MLA, build

SIZES: dict[str, Any] = {
    "n_heads": 3,
    "kv_lora_rank": 7,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 2,
    "v_head_dim": 5,
}
EPS = 1e-3


def mixer(**options) -> MLA:
    torch.manual_seed(0)
    built = build(MLAConfig(**SIZES, **options), 6, EPS)
    assert isinstance(built, MLA)
    built.double().reset_parameters(0.4)
    with torch.no_grad():
        for name, weight in built.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
    return built


def normed(x, weight, eps=EPS):
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight


def turned(x, t):
    """Two channels of token t: with theta^0 = 1 the angle is t."""
    c, s = torch.tensor(float(t)).double().cos(), torch.tensor(float(t)).double().sin()
    return torch.stack((x[0] * c - x[1] * s, x[0] * s + x[1] * c))


@pytest.mark.parametrize(
    "options", [{"q_lora_rank": 5, "norm_eps": 0.5}, {"position": "none", "softmax_scale": 0.3}]
)
def test_it_is_its_formula_token_by_token(options):
    """c = norm(W_c x), k = [U_k c, R r], v = U_v c, queries from their own latent or from x."""
    module = mixer(**options)
    w = dict(module.named_parameters())
    x = torch.randn(1, 5, 6, dtype=torch.float64)
    u, cache = module(x, None, None, True)
    n_queries, eps = options.get("q_lora_rank", 18), options.get("norm_eps", EPS)
    u_k, u_v = w["kv_up.weight"].split([12, 15])
    keys, values, entries = [], [], []
    for t in range(5):
        q, latent, shared = (w["in_proj.weight"] @ x[0, t]).split([n_queries, 7, 2])
        if "q_lora_rank" in options:
            q = w["q_up.weight"] @ normed(q, w["q_norm.weight"], eps)
        q = q.view(3, 6)
        latent = normed(latent, w["kv_norm.weight"], eps)
        if "position" not in options:
            shared = turned(shared, t)
            q = torch.stack([torch.cat((head[:4], turned(head[4:], t))) for head in q])
        entries.append(torch.cat((latent, shared)))
        keys.append(torch.cat(((u_k @ latent).view(3, 4), shared.expand(3, 2)), dim=1))
        values.append((u_v @ latent).view(3, 5))
        scale = options.get("softmax_scale", 6**-0.5)
        for head in range(3):
            scores = torch.stack([scale * (q[head] @ k[head]) for k in keys])
            expected = scores.softmax(0) @ torch.stack([v[head] for v in values])
            torch.testing.assert_close(u[0, t, 5 * head : 5 * head + 5], expected)
    torch.testing.assert_close(cache.k[0, :, 0], torch.stack(entries))
    assert cache.v.shape == (1, 5, 1, 0)


def test_every_part_starts_as_it_should():
    module = build(MLAConfig(**{**SIZES, "q_lora_rank": 64, "kv_lora_rank": 64}), 64, EPS)
    module.reset_parameters(0.3)
    for name, weight in module.named_parameters():
        if "norm" in name:
            assert torch.equal(weight, torch.ones(64)), name
        else:
            assert float(weight.detach().std()) == pytest.approx(0.3, rel=0.1), name


def test_stored_as_an_offset_the_norms_start_at_zero():
    module = build(MLAConfig(**SIZES, q_lora_rank=5), 6, EPS, norm_offset=1.0)
    assert isinstance(module, MLA)
    module.reset_parameters(0.3)
    assert module.q_norm is not None
    assert not bool(module.q_norm.weight.any())
    assert not bool(module.kv_norm.weight.any())


def test_the_defaults_are_in_the_proportions_of_deepseek_v2():
    (letter,) = Spec.parse("+", d_model=256).mixers
    found = letter.mixer
    assert isinstance(found, MLAConfig)
    assert (found.n_heads, found.v_head_dim, found.kv_lora_rank) == (4, 64, 256)
    assert (found.qk_nope_head_dim, found.qk_rope_head_dim, found.q_lora_rank) == (64, 32, None)
    assert found.summary == (
        "latent attention, 4 heads of 64 + 32 shared (values 64), latent 256, rope"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"qk_rope_head_dim": 3}, "qk_rope_head_dim = 3: must be an even number"),
        ({"kv_lora_rank": 0}, r"mixers.\+.kv_lora_rank = 0"),
        ({"v_head_dim": 5}, r"mixers.\+.v_head_dim = 5: must divide d_model = 16"),
        ({"v_head_dim": "5"}, r"mixers.\+.v_head_dim = '5'"),
        ({"kv_rank": 4}, "unknown field 'kv_rank'"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(fields, message):
    with pytest.raises(InputError, match=message):
        Spec.of({"pattern": "+", "d_model": 16, "mixers": {"+": fields}})


def test_the_shared_key_need_not_make_pairs_without_positions():
    assert MLAConfig(**{**SIZES, "qk_rope_head_dim": 3}, position="none").rope_dim == 0


def test_a_wider_model_has_wider_latents():
    spec = Spec.of({"pattern": "+", "d_model": 12, "mixers": {"+": {**SIZES, "q_lora_rank": 5}}})
    (wide,) = widen(spec, 24).mixers
    assert isinstance(wide.mixer, MLAConfig)
    assert (wide.mixer.n_heads, wide.mixer.kv_lora_rank, wide.mixer.q_lora_rank) == (6, 14, 10)


def test_a_step_reads_the_latents_themselves():
    """What decoding runs is absorption, and gives what the whole call gives."""
    from braidlm.ops import dispatch

    module = mixer(q_lora_rank=5)
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    with torch.no_grad():
        whole, _ = module(x, None, None, True)
        _, state = module(x[:, :8], None, None, True)
        dispatch.reset()
        last, _ = module(x[:, 8:], None, state, True)
    assert dispatch.used()["latent_attention"] == "absorb"
    assert torch.allclose(last, whole[:, 8:], rtol=0, atol=1e-12)
    assert not F.mse_loss(last, whole[:, 7:8]) < 1e-3

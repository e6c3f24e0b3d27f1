"""An attention with the keys and values of another: against the formula, in steps, recomputed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from braidlm import state as states
from braidlm.arch import Spec
from braidlm.arch.mixers import AttentionConfig
from braidlm.arch.toml import model_table
from braidlm.errors import InputError
from braidlm.mixers import Attention, build
from braidlm.model import HybridLM
from braidlm.ops.attention import Lent, attention
from braidlm.ops.rope import apply_rope
from braidlm.segments import Segments
from braidlm.train.recompute import recomputed
from tests.specs import ATTENTION, FROM_W, LENT, WINDOW, spec

SIZES: dict[str, Any] = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 6, "v_head_dim": 3}


def modules(**fields: Any) -> tuple[Attention, Attention]:
    torch.manual_seed(0)
    owner = build(AttentionConfig(**SIZES, **fields), 5, 1e-5, 0.0, "A")
    borrower = build(AttentionConfig(**SIZES, **fields, kv_from="A"), 5, 1e-5)
    assert isinstance(owner, Attention)
    assert isinstance(borrower, Attention)
    for module in (owner, borrower):
        module.double().reset_parameters(0.5)
    return owner, borrower


@pytest.mark.parametrize("window", [None, 4])
def test_it_is_the_formula_over_the_other_keys(window):
    owner, borrower = modules(window=window)
    segments = Segments.from_lengths([(7, 2), (8,)], 9)
    x, y = torch.randn(2, 2, 9, 5, dtype=torch.float64)
    keys: dict[str, Lent] = {}
    owner(x, segments, None, True, keys)
    found, state = borrower(y, segments, None, True, keys)
    assert state is None
    w = owner.in_proj.weight
    q, k, v = y @ borrower.in_proj.weight.T, x @ w[24:36].T, x @ w[36:].T
    q, k = (apply_rope(t.unflatten(-1, (-1, 6)), segments.position, owner.inv_freq) for t in (q, k))
    truth, _ = attention(
        q, k, v.unflatten(-1, (2, 3)), segments=segments, window=window, impl="naive"
    )
    real = segments.is_real
    torch.testing.assert_close(found[real], truth.flatten(2)[real], rtol=0, atol=1e-12)


def in_parts(model: HybridLM, tokens: Tensor, lengths: tuple[int, ...]) -> tuple[Tensor, Any]:
    hidden, state = [], None
    for part in tokens.split(list(lengths), dim=1):
        out = model(part, state=state)
        hidden.append(out.hidden)
        state = out.state
    return torch.cat(hidden, dim=1), state


@pytest.mark.parametrize("name", LENT)
@pytest.mark.parametrize("lengths", [(2, 7, 1, 5, 1, 1), (1, 16), (9, 8)])
def test_caches_that_are_written_in_place_are_read_as_they_were(name, lengths):
    """Several tokens at once write over places of a ring that the borrower's first queries see."""
    torch.manual_seed(1)
    model = HybridLM(LENT[name]).double()
    tokens = torch.randint(0, 31, (2, 17))
    with torch.no_grad():
        whole = model(tokens)
        found, state = in_parts(model, tokens, lengths)
    torch.testing.assert_close(found, whole.hidden, rtol=0, atol=1e-12)
    assert state is not None
    for a, b in zip(states.tensors(state), states.tensors(whole.state), strict=True):
        if a.shape == b.shape:
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LENT)
@pytest.mark.parametrize("every", [1, 2])
def test_recomputed_blocks_give_the_same_gradients(name, every):
    torch.manual_seed(1)
    model = HybridLM(LENT[name]).double()
    tokens = torch.randint(0, 31, (2, 9))

    def gradients() -> list[Tensor]:
        model.zero_grad()
        model.loss(tokens, tokens.flip(1)).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    plain = gradients()
    with recomputed(model, every):
        again = gradients()
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_the_owner_learns_from_its_borrower():
    """Gradient reaches the owner's keys through the borrower alone."""
    owner, borrower = modules()
    keys: dict[str, Lent] = {}
    x = torch.randn(2, 6, 5, dtype=torch.float64)
    owner(x, None, None, False, keys)
    borrower(x.flip(1), None, None, False, keys)[0].square().sum().backward()
    grad = owner.in_proj.weight.grad
    assert grad is not None
    assert not bool(grad[:24].any())
    assert bool((grad[24:].abs().amax(dim=1) > 1e-6).all())


def test_each_use_has_the_nearest_earlier_keys():
    model = HybridLM(spec("WBWB", mixers={**WINDOW, "B": {"kind": "attention"} | FROM_W})).double()
    tokens = torch.randint(0, 31, (1, 8))
    out: list[Tensor] = []
    model.blocks[3].register_forward_hook(lambda _, __, y: out.append(y[0].keys["W"].k))
    made: list[Tensor] = []
    model.blocks[2].register_forward_hook(lambda _, __, y: made.append(y[0].keys["W"].k))
    state = model(tokens).state
    assert out[0] is made[0]
    assert state is not None
    assert [s is None for s in state] == [False, True, False, True]


def test_telemetry_of_branches_that_borrow():
    model = HybridLM(LENT["keys lent between branches, meta tokens (Hymba)"])
    told = model(torch.randint(0, 31, (1, 9)), telemetry=True).aux
    assert all(bool(told[f"blocks.{i}.branches.1.rms"] > 0) for i in (0, 2, 4))


def test_a_borrower_is_as_its_lender_and_survives_a_file():
    declared = LENT["keys lent, ring with sinks, multi-query, shared weights"]
    owner, borrower = (x.mixer for x in declared.mixers if x.letter in "BW")
    if isinstance(borrower, AttentionConfig) and borrower.kv_from is None:
        owner, borrower = borrower, owner
    assert isinstance(owner, AttentionConfig)
    assert isinstance(borrower, AttentionConfig)
    assert (borrower.window, borrower.n_sinks, borrower.n_kv_heads) == (3, 2, 1)
    assert borrower.n_heads == owner.n_heads
    assert borrower.summary.endswith("keys of W")
    assert Spec.of(model_table(declared)) == declared


@pytest.mark.parametrize(
    ("pattern", "fields", "message"),
    [
        ("BW", {}, r"sublayer 0 \(B\): kv_from = 'W': no earlier sublayer has letter 'W'"),
        ("{WB}", {}, r"sublayer 0 \(\{WB\}\): kv_from = 'W': no earlier sublayer"),
        ("WB", {"window": 6}, "needs window as letter 'W' has it, 5, not 6"),
        ("WB", {"n_kv_heads": 1}, "needs n_kv_heads as letter 'W' has it, 2, not 1"),
        ("WB", {"position": "none"}, "needs position as letter 'W' has it, 'rope', not 'none'"),
        ("WB", {"v_head_dim": 3}, "needs v_head_dim"),
        ("WB", {"rope_theta": 5e5}, "needs rope_theta"),
        ("WB", {"n_sinks": 1}, "needs n_sinks"),
        ("WB", {"key_multiplier": 2.0}, "key_multiplier = 2.0: belongs to the letter"),
        ("WB", {"kv_from": "X"}, "mixers.B.kv_from = 'X': names no letter of this model"),
        ("WB", {"kv_from": ["W"]}, "mixers.B.kv_from = "),
        ("WB", {"kv_from": "B"}, "mixers.B.kv_from = 'B': letter 'B' borrows itself"),
        ("WBM", {"kv_from": "M"}, "mixers.B.kv_from = 'M': letter 'M' is no attention"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(pattern, fields, message):
    mixers = {**WINDOW, "B": {"kind": "attention", **FROM_W, **fields}}
    with pytest.raises(InputError, match=message):
        spec(pattern, mixers=mixers)


def test_other_kinds_know_no_borrowing():
    with pytest.raises(InputError, match="unknown field 'kv_from'"):
        spec("*M", mixers={"*": ATTENTION, "M": FROM_W})

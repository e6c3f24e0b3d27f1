"""Every law over every mixer, fusion and small whole model, gradients included."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch

from braidlm import laws
from braidlm.mixers import MoE
from braidlm.model import HybridLM
from tests.specs import ALL, PARALLEL, SINGLE, WHOLE, spec

EXACT = 1e-10
"""fp64: what rounding alone may do; measured at most 3e-13."""


def build(name: str, dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(1)
    return HybridLM(ALL[name]).to(dtype)


def of_fixed_shape(model: Any) -> Any:
    """Sorting tokens by expert gives products of other shapes, and so other last bits."""
    for module in model.modules():
        if isinstance(module, MoE):
            module.impl = "dense"
    return model


def tokens(n: int) -> torch.Tensor:
    return torch.randint(0, 31, (n,), generator=torch.Generator().manual_seed(2))


def check(deviation: laws.Deviation) -> None:
    assert deviation.outputs < EXACT, deviation
    assert deviation.gradients < EXACT, deviation
    assert deviation.states < EXACT, deviation


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("length", "at"), [(5, 3), (8, 7), (29, 9), (29, 28), (29, 16)])
def test_the_future_never_reaches_the_past(name, length, at):
    model = of_fixed_shape(build(name, torch.float32))
    assert laws.causality(model, tokens(length), at) == 0.0


@pytest.mark.parametrize("name", [name for name in ALL if "expert" in name])
@pytest.mark.parametrize(("length", "at"), [(5, 3), (29, 28), (29, 16)])
def test_sorted_by_expert_the_future_changes_last_bits_alone(name, length, at):
    """Measured: at most 5e-7 in fp32, 2e-15 in fp64."""
    assert laws.causality(build(name, torch.float32), tokens(length), at) < 1e-5
    assert laws.causality(build(name), tokens(length), at) < 1e-13


@pytest.mark.parametrize("name", ALL)
def test_prefill_and_steps_are_the_full_forward(name):
    model = build(name)
    for prefill in (0, 1, 2, 7, 8, 9, 16):
        check(laws.stepped(model, tokens(17), prefill))


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_every_split_of_17_is_the_full_forward(name):
    model = build(name)
    for at in range(1, 17):
        check(laws.split(model, tokens(17), at))
        check(laws.stepped(model, tokens(17), at))


@pytest.mark.parametrize("name", ALL)
def test_segments_with_carried_state_are_one_sequence(name):
    check(laws.carried(build(name), tokens(29), (3, 1, 8, 2, 15)))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "rows",
    [
        [(1, 2, 8, 9)],
        [(8, 8, 4), (20,)],
        [(9, 1, 1), (3,)],
    ],
)
def test_packed_is_separate(name, rows):
    check(laws.packed(build(name), tokens(60), rows))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_never_leaks(name, side):
    check(laws.padded(build(name), tokens(60), (1, 17, 8, 3), side))


def test_the_table_of_models_covers_every_declared_option():
    """A forgotten mixer or fusion fails here, not in silence."""
    from braidlm.arch.fusion import Fusion
    from braidlm.arch.mixers import KINDS

    kinds = {type(b) for s in SINGLE.values() for x in s.sublayers for b in x.branches}
    assert kinds == set(KINDS.values())
    combined = {x.fusion.combine for s in PARALLEL.values() for x in s.sublayers if x.fusion}
    assert combined == set(get_args(Fusion.model_fields["combine"].annotation))
    assert all(len(s.sublayers) > 2 for s in WHOLE.values())


class TestTheLawsHaveTeeth:
    """A law that cannot fail is no law: each catches the defect that it is for."""

    def test_a_look_ahead_breaks_causality(self):
        model = build("sequential hybrid", torch.float32)
        block = model.blocks[0]
        inner = block.norm.forward
        block.norm.forward = lambda x: inner(x) + 1e-3 * inner(x).mean(dim=1, keepdim=True)
        assert laws.causality(model, tokens(29), 20) > 0

    def test_a_forgotten_state_breaks_the_split(self):
        model = build("sequential hybrid")
        mixer = model.blocks[0].mix.mixer
        inner = mixer.forward
        mixer.forward = lambda x, segments, state, keep: inner(x, segments, None, keep)
        assert laws.split(model, tokens(17), 9).outputs > 1e-4
        assert laws.stepped(model, tokens(17), 9).outputs > 1e-4

    def test_ignored_boundaries_break_packing_and_padding(self):
        model = build("sequential hybrid")
        mixer = model.blocks[0].mix.mixer
        inner = mixer.forward

        def deaf(x, segments, state, keep):
            u, _ = inner(x, None, state, False)
            return u, inner(x, segments, state, keep)[1]

        mixer.forward = deaf
        assert laws.packed(model, tokens(60), [(9, 8, 3)]).outputs > 1e-4
        assert laws.padded(model, tokens(60), (3, 17), "left").outputs > 1e-4

    def test_a_detached_state_breaks_the_carried_gradient(self):
        model = build("sequential hybrid")
        mixer = model.blocks[0].mix.mixer
        inner = mixer.forward

        def cut(x, segments, state, keep):
            from braidlm.state import detach

            return inner(x, segments, detach(state), keep)

        mixer.forward = cut
        found = laws.carried(model, tokens(29), (15, 14))
        assert found.outputs < EXACT
        assert found.gradients > 1e-4


def test_a_state_holds_one_entry_per_document():
    from braidlm.segments import Segments

    model = HybridLM(spec("M*", mixers={"M": {"d_state": 5}}))
    out = model(torch.zeros(2, 12, dtype=torch.int64), Segments.from_lengths([(4, 8), (3,)]))
    ssm, kv = out.state
    assert ssm.ssm.shape == (3, 4, 4, 5)
    assert kv.length.tolist() == [4, 8, 3]

from __future__ import annotations

import math

import pytest
import torch

from braidlm.arch.mixers import RopeScaling
from braidlm.errors import InputError
from braidlm.ops.rope import (
    LinearScaling,
    Llama3Scaling,
    YarnScaling,
    apply_rope,
    rope_angles,
    rope_frequencies,
    rotate,
)
from tests.ops.compare import assert_near, leaf, relative_l2, with_gradients
from tests.tolerances import BF16_L2


def test_pairs_are_rotated_as_complex_numbers():
    x, positions = leaf(2, 5, 3, 8), torch.tensor([[0, 1, 2, 3, 4], [7, 8, 9, 100, 1000]])
    frequency = rope_frequencies(6, 100.0)
    expected = 100.0 ** (-torch.arange(0, 6, 2) / 6)
    torch.testing.assert_close(frequency, expected)
    y = apply_rope(x, positions, frequency)
    z = torch.complex(x[..., :3], x[..., 3:6])
    turn = torch.polar(
        torch.ones((), dtype=torch.float64), positions[..., None] * frequency.double()
    )
    z = z * turn[:, :, None]
    assert_near(y, torch.cat((z.real, z.imag, x[..., 6:]), -1))


def test_scores_depend_on_distance_alone():
    q, k = leaf(1, 1, 1, 8), leaf(1, 1, 1, 8)
    frequency = rope_frequencies(8, 1e4)

    def score(at, to):
        turned = [apply_rope(x, torch.tensor([[p]]), frequency) for x, p in ((q, at), (k, to))]
        return (turned[0] * turned[1]).sum()

    assert_near(score(5, 3), score(1005, 1003))
    assert abs(float((score(5, 3) - score(6, 3)).detach())) > 1e-4


def test_gradcheck():
    frequency, positions = rope_frequencies(2, 10.0), torch.tensor([[0, 3]])
    assert torch.autograd.gradcheck(
        lambda x: apply_rope(x, positions, frequency), (leaf(1, 2, 2, 3),)
    )


def test_linear_scaling_stretches_every_channel():
    plain = rope_frequencies(8, 1e4)
    torch.testing.assert_close(rope_frequencies(8, 1e4, LinearScaling(4.0)), plain / 4)


def test_llama3_scaling_keeps_fast_channels_and_stretches_slow_ones():
    scaling = Llama3Scaling(8.0, 1.0, 4.0, 8192)
    plain = rope_frequencies(128, 5e5).double()
    scaled = rope_frequencies(128, 5e5, scaling).double()
    wavelength = 2 * math.pi / plain
    fast, slow = wavelength < 8192 / 4.0, wavelength > 8192 / 1.0
    torch.testing.assert_close(scaled[fast], plain[fast])
    torch.testing.assert_close(scaled[slow], plain[slow] / 8)
    between = ~fast & ~slow
    assert int(between.sum()) > 3
    smooth = (8192 / wavelength[between] - 1.0) / (4.0 - 1.0)
    expected = (1 - smooth) * plain[between] / 8 + smooth * plain[between]
    torch.testing.assert_close(scaled[between], expected, rtol=1e-6, atol=0)


def yarn_by_channel(dim: int, theta: float, s: YarnScaling) -> list[float]:
    """Each channel by itself: where it lies between the one that turns often and the one that
    turns rarely, found by its turns over the first context."""
    half, found = dim // 2, []
    step = math.log(theta) / half  # of the logarithm of a wavelength, from channel to channel
    for i in range(half):
        plain = theta ** (-i / half)
        turns = s.original_length * plain / (2 * math.pi)
        first, last = (i + math.log(turns / beta) / step for beta in (s.beta_fast, s.beta_slow))
        if s.truncate:
            first, last = float(math.floor(first + 1e-9)), float(math.ceil(last - 1e-9))
        first, last = max(first, 0.0), min(last, dim - 1.0)
        place = (i - first) / (last - first)
        if place <= 0:
            found.append(plain)
        elif place >= 1:
            found.append(plain / s.factor)
        else:
            found.append(plain * (1 - place) + plain / s.factor * place)
    return found


@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize(
    ("dim", "theta", "length", "beta_fast", "beta_slow"),
    [(128, 1e6, 32768, 32.0, 1.0), (64, 1e4, 4096, 32.0, 1.0), (10, 500.0, 12, 1.5, 0.1)],
)
def test_yarn_is_its_formula_channel_by_channel(dim, theta, length, beta_fast, beta_slow, truncate):
    scaling = YarnScaling(4.0, length, beta_fast, beta_slow, truncate)
    found = rope_frequencies(dim, theta, scaling)
    expected = torch.tensor(yarn_by_channel(dim, theta, scaling), dtype=torch.float64)
    torch.testing.assert_close(found.double(), expected, rtol=1e-7, atol=0)
    plain = rope_frequencies(dim, theta)
    assert torch.equal(found[0], plain[0])
    torch.testing.assert_close(found[-1], plain[-1] / 4)
    between = (found < plain * 0.999) & (found > plain / 4 * 1.001)
    assert int(between.sum()) > 0


def test_yarns_bounds_that_meet_leave_a_step():
    """Both at the first channel: it stays, and all others are stretched. Where the second lies
    before it, nothing is: the published code has it so, and files mean it so."""
    plain = rope_frequencies(8, 1e4)
    found = rope_frequencies(8, 1e4, YarnScaling(2.0, 6, 30.0, 0.96, True))
    assert torch.equal(found[0], plain[0])
    torch.testing.assert_close(found[1:], plain[1:] / 2)
    found = rope_frequencies(8, 1e4, YarnScaling(2.0, 6, 30.0, 0.96, False))
    assert torch.equal(found, plain)


def test_the_magnitude_is_a_factor_on_what_is_rotated_and_on_nothing_else():
    x, positions, frequency = leaf(2, 5, 3, 8), torch.arange(5).expand(2, 5), torch.ones(3)
    plain, grown = (apply_rope(x, positions, frequency, m) for m in (1.0, 1.25))
    assert_near(grown[..., :6], 1.25 * plain[..., :6])
    assert torch.equal(grown[..., 6:], plain[..., 6:])
    assert torch.autograd.gradcheck(
        lambda x: apply_rope(x, torch.tensor([[0, 3]]), torch.ones(1), 1.25), (leaf(1, 2, 2, 3),)
    )


LOG_40 = math.log(40)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 0.1 * LOG_40 + 1),
        ({"factor": 0.5}, 1.0),
        ({"attention_factor": 0.7}, 0.7),
        ({"mscale": 1.0, "mscale_all_dim": 1.0}, 1.0),
        ({"mscale": 0.5, "mscale_all_dim": 2.0}, (0.05 * LOG_40 + 1) / (0.2 * LOG_40 + 1)),
        ({"kind": "linear"}, 1.0),
    ],
)
def test_the_declared_magnitude(fields, expected):
    scaling = RopeScaling(**{"kind": "yarn", "factor": 40.0, **fields})
    assert scaling.magnitude == pytest.approx(expected, rel=1e-15)


def test_far_positions_keep_their_precision_in_bf16():
    x = leaf(1, 4, 2, 8, dtype=torch.bfloat16)
    exact = x.detach().double().requires_grad_()
    positions = torch.tensor([[0, 1000, 100_000, 100_001]])
    frequency = rope_frequencies(8, 1e4)
    ours = with_gradients(lambda: (apply_rope(x, positions, frequency),), [x])
    truth = with_gradients(lambda: (apply_rope(exact, positions, frequency),), [exact])
    assert ours[0].dtype == torch.bfloat16
    errors = [relative_l2(a, b) for a, b in zip(ours, truth, strict=True)]
    assert max(errors) < BF16_L2["rope"], errors


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: rope_frequencies(7, 1e4), "dim=7"),
        (lambda: rope_frequencies(8, -1.0), "theta=-1"),
        (lambda: rope_frequencies(8, 1e4, LinearScaling(0.0)), "factor=0"),
        (lambda: rope_frequencies(8, 1e4, YarnScaling(0.0, 8, 32.0, 1.0, True)), "factor=0"),
        (lambda: rope_frequencies(8, 1e4, YarnScaling(2.0, 8, 1.0, 1.0, True)), "beta_fast=1"),
        (lambda: rope_frequencies(8, 1.0, YarnScaling(2.0, 8, 32.0, 1.0, True)), "theta=1"),
        (lambda: rope_frequencies(8, 1e4, Llama3Scaling(8.0, 4.0, 1.0, 8)), "low_freq_factor=4"),
        (
            lambda: apply_rope(torch.ones(1, 2, 1, 4), torch.zeros(1, 2), torch.ones(3)),
            "2r <= D",
        ),
        (
            lambda: apply_rope(torch.ones(1, 2, 1, 4), torch.zeros(1, 3), torch.ones(2)),
            "positions has shape",
        ),
    ],
)
def test_what_does_not_fit_is_named(call, word):
    with pytest.raises(ValueError, match=word):
        call()


@pytest.mark.parametrize(
    ("shape", "impl", "error", "word"),
    [
        ((1, 2, 6), "auto", ValueError, "D of at least 8, the channels that are rotated"),
        ((1, 2, 1, 6), "auto", ValueError, "D of at least 8, the channels that are rotated"),
        ((1, 3, 1, 8), "auto", ValueError, "angles.cos has shape"),
        ((1, 2, 1, 8), "fast", InputError, "auto, triton, torch"),
        ((1, 2, 1, 8), "triton", InputError, "needs an NVIDIA GPU"),
    ],
)
def test_what_angles_do_not_fit_is_named(shape, impl, error, word):
    angles = rope_angles(torch.zeros(1, 2, dtype=torch.int64), torch.ones(4), torch.float32)
    with pytest.raises(error, match=word):
        rotate(torch.zeros(shape), angles, impl=impl)

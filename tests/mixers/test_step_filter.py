"""Filtered tokens are tokens that are not there, and the calibration says which."""

import math

import pytest
import torch

from braidlm import mixers, state
from braidlm.arch.mixers import Mamba1Config, Mamba2Config
from braidlm.mixers import Mamba1, Mamba2, step_filter
from braidlm.mixers.step_filter import StepCurve, StepFilter
from braidlm.model import HybridLM
from braidlm.ops.selective_scan import selective_scan
from braidlm.ops.ssd import ssd
from braidlm.segments import Segments
from tests.specs import MAMBA, MAMBA1, spec

D_MODEL = 16
TRAINED = 12
MIXERS = {"mamba1": MAMBA1, "mamba1 in groups": {**MAMBA1, "n_groups": 2}, "mamba2": MAMBA}


@pytest.fixture(autouse=True)
def _plain():
    with torch.no_grad():
        yield


def build(kind: str) -> Mamba1 | Mamba2:
    torch.manual_seed(0)
    fields = MIXERS[kind]
    config = Mamba2Config(**fields) if kind == "mamba2" else Mamba1Config(**fields)
    mixer = mixers.build(config, D_MODEL, 1e-5)
    assert isinstance(mixer, Mamba1 | Mamba2)
    mixer.reset_parameters(0.5)
    return mixer.double()


def read(mixer, x, segments=None, held=None):
    return mixer(x, segments, held, True)


def inputs(n_rows: int, length: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_rows, length, D_MODEL, generator=generator, dtype=torch.float64)


def filtered(mixer, min_decay: float = 1e-30, clamp: float = 0.0) -> StepFilter:
    """Hang a filter into the mixer, calibrated on rows of the trained length."""
    curve = StepCurve(clamp)
    mixer.step_rule = curve
    read(mixer, inputs(3, TRAINED, seed=7))
    A_log = mixer.dynamics.A_log
    rate = A_log.exp().reshape(len(A_log), -1).amin(1)
    mixer.step_rule = StepFilter(curve, rate, min_decay)
    return mixer.step_rule


def ramp(n_channels: int = 1) -> torch.Tensor:
    """dt of 1, 2, ..., 12 in some order, in every channel of one row."""
    order = torch.randperm(TRAINED, generator=torch.Generator().manual_seed(3)) + 1.0
    return order.double()[None, :, None].expand(1, -1, n_channels)


def limit_of(length: int, *, clamp: float = 0.0, rate: float = 1e-3) -> float:
    curve = StepCurve(clamp)
    curve(ramp(), None)
    rule = StepFilter(curve, torch.tensor([rate]), 0.05)
    return float(rule.limits(torch.tensor([length])))


@pytest.mark.parametrize(
    ("times", "least"),
    # 12 + 11 + 10 + 9 is the first sum of the largest that reaches 78 / 2; 12 + 11 that of 78 / 4.
    [(2, 9.0), (4, 11.0), (12, 12.0)],
)
def test_what_is_kept_of_a_long_text_decays_as_a_trained_length(times, least):
    assert limit_of(times * TRAINED) == least


def test_the_largest_steps_of_the_calibration_may_be_clamped():
    # The three largest count as 10: of 75 a half is reached by 10 + 10 + 10 + 9.
    assert limit_of(2 * TRAINED, clamp=25.0) == 9.0
    assert limit_of(4 * TRAINED, clamp=25.0) == 10.0


def test_only_texts_beyond_the_trained_length_and_only_slow_channels_are_filtered():
    assert limit_of(TRAINED) == -math.inf
    assert limit_of(TRAINED - 1) == -math.inf
    assert limit_of(TRAINED + 1) > 0
    # exp(-rate 78) on either side of 0.05
    assert limit_of(2 * TRAINED, rate=0.0384) == 9.0
    assert limit_of(2 * TRAINED, rate=0.0385) == -math.inf


def test_rows_with_padding_calibrate_by_their_own_tokens():
    padded = torch.cat([ramp(), torch.full((1, 12, 1), 99.0, dtype=torch.float64)], dim=1)
    curve = StepCurve(0.0)
    curve(padded, Segments.from_lengths([[TRAINED]], 24))
    assert torch.equal(curve.values[:, 0], torch.arange(12.0, 0, -1, dtype=torch.float64))
    assert curve.length == TRAINED


def test_rows_of_several_kinds_are_pooled():
    """Where some rows have nothing to remember, the others' tokens still compete."""
    curve = StepCurve(0.0)
    curve(torch.zeros(3, TRAINED, 1, dtype=torch.float64), None)
    curve(ramp(), None)
    rule = StepFilter(curve, torch.tensor([1e-3]), 0.05)
    assert float(rule.limits(torch.tensor([2 * TRAINED]))) == 9.0


def test_a_long_curve_is_kept_in_fewer_points(monkeypatch):
    monkeypatch.setattr(step_filter, "POINTS", 6)
    curve = StepCurve(0.0)
    curve(ramp(), None)
    assert curve.values[:, 0].tolist() == [11.5, 9.5, 7.5, 5.5, 3.5, 1.5]


def test_a_skipped_token_is_a_token_that_is_not_there():
    """Of one head, and of one channel: scanning what was kept gives the same outputs and state."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    dt, x, b, c = draw(1, 40, 1).exp(), draw(1, 40, 1, 3), draw(1, 40, 1, 5), draw(1, 40, 1, 5)
    kept = dt[0, :, 0] > 1
    A = torch.tensor([-0.3], dtype=torch.float64)
    y, end = ssd(x, torch.where(dt > 1, dt, 0), A, b, c, chunk_size=8)
    few = (v[:, kept] for v in (x, dt, b, c))
    x_few, dt_few, b_few, c_few = few
    y_few, end_few = ssd(x_few, dt_few, A, b_few, c_few, chunk_size=8)
    assert torch.allclose(y[:, kept], y_few, rtol=0, atol=1e-12)
    assert end is not None
    assert end_few is not None
    assert torch.allclose(end, end_few, rtol=0, atol=1e-12)

    A1, D = -draw(1, 5).exp(), torch.zeros(1, dtype=torch.float64)
    one = x[..., 0, :1], b[:, :, 0], c[:, :, 0]
    y, end = selective_scan(
        one[0], torch.where(dt > 1, dt, 0), A1, *one[1:], D, return_state=True, chunk_size=8
    )
    x_few, b_few, c_few = (v[:, kept] for v in one)
    y_few, end_few = selective_scan(
        x_few, dt_few, A1, b_few, c_few, D, return_state=True, chunk_size=8
    )
    assert torch.allclose(y[:, kept], y_few, rtol=0, atol=1e-12)
    assert end is not None
    assert end_few is not None
    assert torch.allclose(end, end_few, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", MIXERS)
def test_where_all_is_kept_every_bit_is_that_of_the_plain_mixer(kind):
    mixer = build(kind)
    short, long = inputs(2, TRAINED), inputs(2, 40)
    plain = [read(mixer, x) for x in (short, long)]
    rule = filtered(mixer)
    u, held = read(mixer, short)
    assert torch.equal(u, plain[0][0])
    assert all(map(torch.equal, held, plain[0][1]))
    assert rule.counts[0] == rule.counts[1] > 0
    assert not torch.equal(read(mixer, long)[0], plain[1][0])
    assert rule.counts[0] < rule.counts[1]
    filtered(mixer, min_decay=1 - 1e-12)  # no channel is global
    assert torch.equal(read(mixer, long)[0], plain[1][0])


@pytest.mark.parametrize("kind", MIXERS)
def test_packed_and_padded_documents_are_filtered_by_their_own_length(kind):
    mixer = build(kind)
    filtered(mixer)
    lengths = [30, 5, 13, 20]
    x = inputs(1, sum(lengths) + 7)
    segments = Segments.from_lengths([lengths], x.shape[1])
    u, packed = read(mixer, x, segments)
    for number, (_, start, length) in enumerate(segments.spans):
        alone, after = read(mixer, x[:, start : start + length])
        assert torch.allclose(u[:, start : start + length], alone, rtol=0, atol=1e-12)
        assert torch.allclose(packed.ssm[number], after.ssm[0], rtol=0, atol=1e-12)
    rows = torch.cat([x[:, :30], torch.cat([x[:, 35:48], inputs(1, 17, 5)], 1)])
    mask = torch.arange(30) < torch.tensor([30, 13])[:, None]
    both, _ = read(mixer, rows, Segments.from_mask(mask))
    assert torch.allclose(both[1, :13], u[0, 35:48], rtol=0, atol=1e-12)


def test_padding_is_not_counted():
    mixer = build("mamba2")
    rule = filtered(mixer)
    read(mixer, inputs(1, 50), Segments.from_lengths([[30]], 50))
    assert rule.counts[1] == 30 * int(rule.is_global.sum()) > 0


@pytest.mark.parametrize("kind", MIXERS)
def test_a_later_token_changes_nothing_but_by_the_length(kind):
    mixer = build(kind)
    filtered(mixer)
    x = inputs(1, 40)
    other = torch.cat([x[:, :20], inputs(1, 20, 9)], 1)
    u = read(mixer, x)[0]
    assert torch.equal(read(mixer, other)[0][:, :20], u[:, :20])
    assert not torch.equal(read(mixer, x[:, :20])[0], u[:, :20])


@pytest.mark.parametrize("kind", MIXERS)
def test_what_continues_a_state_is_not_filtered(kind):
    mixer = build(kind)
    rule = filtered(mixer)
    x, more = inputs(1, 40), inputs(1, 30, 4)
    held = read(mixer, x)[1]
    counts = rule.counts
    after, end = read(mixer, more, None, held)
    assert rule.counts == counts
    steps, now = [], held
    for t in range(30):
        u, now = read(mixer, more[:, t : t + 1], None, now)
        steps.append(u)
    assert torch.allclose(torch.cat(steps, 1), after, rtol=0, atol=1e-12)
    mixer.step_rule = None
    assert torch.equal(read(mixer, more, None, held)[0], after)
    assert torch.equal(now.ssm, end.ssm) or torch.allclose(now.ssm, end.ssm, rtol=0, atol=1e-12)


def test_gradients_are_refused():
    mixer = build("mamba2")
    filtered(mixer)
    with torch.enable_grad(), pytest.raises(ValueError, match="filtered without gradients only"):
        read(mixer, inputs(1, 40))


def test_a_hybrid_keeps_its_shapes():
    torch.manual_seed(0)
    model = HybridLM(spec("M*S{M*}-")).eval()
    tokens = torch.randint(31, (2, 40))
    plain = model(tokens)
    for module in model.modules():
        if isinstance(module, Mamba1 | Mamba2):
            curve = StepCurve(0.0)
            module.step_rule = curve
    model(tokens[:, :TRAINED])
    for module in model.modules():
        if isinstance(module, Mamba1 | Mamba2):
            assert isinstance(module.step_rule, StepCurve)
            module.step_rule = StepFilter(module.step_rule, torch.zeros(()), 0.05)
    found = model(tokens)
    assert not torch.equal(found.hidden, plain.hidden)
    shapes = [[t.shape for t in state.tensors(out.state)] for out in (plain, found)]
    assert shapes[0] == shapes[1]
    assert torch.isfinite(found.hidden).all()

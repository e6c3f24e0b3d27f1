import pytest

from braidlm.arch.experiment import TrainConfig
from braidlm.train.schedule import learning_rate, trapezoid

COSINE = TrainConfig(steps=100, lr=2.0, warmup_steps=10, min_lr_ratio=0.1)
WSD = TrainConfig(
    steps=100, lr=2.0, warmup_steps=10, min_lr_ratio=0.1, schedule="trapezoid", decay_fraction=0.2
)


@pytest.mark.parametrize("config", [COSINE, WSD])
def test_warm_up_starts_above_zero_and_reaches_the_peak_at_its_last_update(config):
    assert learning_rate(1, config) == pytest.approx(0.2)
    assert learning_rate(5, config) == pytest.approx(1.0)
    assert learning_rate(10, config) == 2.0
    assert learning_rate(11, config) <= 2.0


def test_cosine_passes_the_middle_half_way_and_ends_at_the_minimum():
    assert learning_rate(55, COSINE) == pytest.approx(2.0 * (0.1 + 0.9 / 2))
    assert learning_rate(100, COSINE) == pytest.approx(0.2)
    rates = [learning_rate(u, COSINE) for u in range(10, 101)]
    assert rates == sorted(rates, reverse=True)


def test_trapezoid_is_flat_then_falls_to_the_minimum():
    assert {learning_rate(u, WSD) for u in range(10, 81)} == {2.0}
    assert learning_rate(81, WSD) == pytest.approx(2.0 * (1 - 0.9 / 20))
    assert learning_rate(90, WSD) == pytest.approx(2.0 * (1 - 0.9 / 2))
    assert learning_rate(100, WSD) == pytest.approx(0.2)


def test_square_root_cool_down_falls_faster_at_first_and_ends_alike():
    assert trapezoid(80, 100, 20, 0.1, shape="sqrt") == 1.0
    assert trapezoid(85, 100, 20, 0.1, shape="sqrt") == pytest.approx(1 - 0.9 * 0.5)
    declared = WSD.model_copy(update={"decay_shape": "sqrt"})
    assert learning_rate(80, declared) == 2.0
    assert learning_rate(85, declared) == pytest.approx(2 * (1 - 0.9 * 0.5))
    assert learning_rate(85, WSD) == pytest.approx(2 * (1 - 0.9 * 0.25))
    assert trapezoid(100, 100, 20, 0.1, shape="sqrt") == pytest.approx(0.1)
    with pytest.raises(ValueError, match="shape = 'cubic'"):
        trapezoid(85, 100, 20, 0.1, shape="cubic")


@pytest.mark.parametrize("config", [COSINE, WSD])
def test_annealing_goes_on_from_the_schedule_and_ends_exactly(config):
    config = config.model_copy(update={"anneal_fraction": 0.1, "anneal_lr_ratio": 0.02})
    assert learning_rate(90, config) == pytest.approx(0.2)
    assert learning_rate(91, config) == pytest.approx(2.0 * (0.1 - 0.08 / 10))
    assert learning_rate(95, config) == pytest.approx(2.0 * 0.06)
    assert learning_rate(100, config) == pytest.approx(0.04)


@pytest.mark.parametrize("schedule", ["cosine", "trapezoid"])
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("warmup_steps", [0, 1, 3, 50])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_every_short_run_has_positive_finite_rates(schedule, steps, warmup_steps, share):
    config = TrainConfig(
        steps=steps,
        schedule=schedule,
        warmup_steps=warmup_steps,
        decay_fraction=share,
        anneal_fraction=share,
        anneal_lr_ratio=0.1,
    )
    rates = [learning_rate(u, config) for u in range(1, steps + 1)]
    assert all(0 < rate <= config.lr for rate in rates)


def test_without_warm_up_the_first_update_has_the_peak_of_a_trapezoid():
    config = TrainConfig(steps=10, lr=1.0, schedule="trapezoid", decay_fraction=0.0)
    assert [learning_rate(u, config) for u in range(1, 11)] == [1.0] * 10


def test_a_run_shorter_than_its_warm_up_never_leaves_it():
    config = TrainConfig(steps=5, lr=1.0, warmup_steps=10)
    assert [learning_rate(u, config) for u in range(1, 6)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.5]
    )


@pytest.mark.parametrize("update", [0, 101, -1])
def test_updates_outside_the_run_are_refused(update):
    with pytest.raises(ValueError, match="allowed: 1 to 100"):
        learning_rate(update, COSINE)

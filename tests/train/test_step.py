import pytest
import torch

from braidlm.errors import InputError
from braidlm.train.precision import resolve_precision
from braidlm.train.step import Place, accumulate, micro_slices, rows_of, stream_seed

from .tiny import TinyBatch, TinyLM, TinyMixture

CPU = torch.device("cpu")
FP32 = resolve_precision("fp32", CPU)


def gradients(micro_batch_size: int, place: Place = Place(CPU), dtype=torch.float64):  # noqa: B008
    model = TinyLM(dtype=dtype)
    loss = accumulate(model, TinyMixture().batch(3), micro_batch_size, FP32, place, 0, 3)
    return loss, model.gradients()


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3])
def test_accumulation_is_one_batch_although_targets_are_uneven(micro_batch_size):
    loss, whole = gradients(0)
    split_loss, split = gradients(micro_batch_size)
    # The batch has 6 + 1 + 2 + 3 targets: a mean of means would differ in the first digit.
    torch.testing.assert_close(split_loss, loss, rtol=1e-6, atol=0)
    assert len(whole) == 6
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, rtol=1e-6, atol=1e-9)
        assert gradient.abs().max() > 1e-3


def test_the_loss_is_the_mean_over_target_tokens():
    batch = TinyMixture().batch(3)
    expected = TinyLM().loss(batch.tokens, batch.targets, batch.segments)
    torch.testing.assert_close(gradients(2, dtype=torch.float32)[0], expected.detach())


def test_ranks_share_the_batch_and_their_gradients_add_up():
    loss, whole = gradients(0)
    parts = [gradients(1, Place(CPU, rank, 2)) for rank in range(2)]
    torch.testing.assert_close(parts[0][0] + parts[1][0], loss, rtol=1e-6, atol=0)
    for name, gradient in whole.items():
        total = parts[0][1][name] + parts[1][1][name]
        torch.testing.assert_close(total, gradient, rtol=1e-6, atol=1e-9)


def test_micro_slices_cover_each_ranks_rows_once_and_in_order():
    assert micro_slices(8, 0) == [slice(0, 8)]
    assert micro_slices(8, 3) == [slice(0, 3), slice(3, 6), slice(6, 8)]
    assert micro_slices(8, 2, rank=1, world=2) == [slice(4, 6), slice(6, 8)]
    with pytest.raises(InputError, match="batch_size = 9: must be a multiple of 2"):
        micro_slices(9, 0, 0, 2)


def test_rows_keep_their_documents():
    batch = TinyMixture().batch(0)
    tokens, targets, segments = rows_of(batch, slice(2, 4), CPU)
    assert torch.equal(tokens, batch.tokens[2:4])
    assert torch.equal(targets, batch.targets[2:4])
    assert batch.segments is not None
    assert segments is not None
    assert torch.equal(segments.position, batch.segments.position[2:4])
    assert segments.n_docs == 4
    assert segments.rows.tolist() == [0, 0, 1, 1]
    assert rows_of(TinyBatch(batch.tokens, batch.targets, None, 1, {}), slice(0, 1), CPU)[2] is None


def test_random_numbers_follow_from_seed_step_micro_and_rank():
    seeds = {
        stream_seed(seed, step, micro, rank)
        for seed in range(3)
        for step in range(12)
        for micro in range(12)
        for rank in range(3)
    }
    assert len(seeds) == 3 * 12 * 12 * 3
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert stream_seed(1, 2, 3, 0) == stream_seed(1, 2, 3, 0)

    class Noisy(TinyLM):
        def loss(self, *arguments, **named):
            drawn.append(torch.rand(()).item())
            return super().loss(*arguments, **named)

    drawn: list[float] = []
    for _ in range(2):
        accumulate(Noisy(), TinyMixture().batch(0), 2, FP32, Place(CPU), 0, 5)
        torch.rand(7)
    assert drawn[:2] == drawn[2:]
    assert drawn[0] != drawn[1]


def test_a_batch_without_targets_is_refused():
    batch = TinyMixture().batch(0)
    batch.targets.fill_(-100)
    with pytest.raises(InputError, match="batch of step 6 has no target token"):
        accumulate(TinyLM(), batch, 0, FP32, Place(CPU), 0, 5)

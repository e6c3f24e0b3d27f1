import pytest
import torch
from torch import nn

from braidlm.errors import InputError
from braidlm.model import HybridLM
from braidlm.segments import Segments
from braidlm.train import train
from braidlm.train.recompute import recomputed
from tests.specs import ALL

from .test_loop import assert_same_run, real_recipe

TOKENS = torch.arange(2 * 19).view(2, 19) % 31
SEGMENTS = Segments.from_lengths([[9, 10], [1, 13]], 19)


def gradients(model: HybridLM, every: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    with recomputed(model, every):
        loss = model.loss(TOKENS, TOKENS.roll(1), SEGMENTS)
        loss.backward()
    return loss, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ALL)
def test_loss_and_gradients_have_the_same_bits(name):
    torch.manual_seed(0)
    model = HybridLM(ALL[name])
    loss, plain = gradients(model, 0)
    for every in range(1, len(model.blocks) + 1):
        again, found = gradients(model, every)
        assert torch.equal(again, loss)
        assert found.keys() == plain.keys()
        for parameter, gradient in plain.items():
            assert torch.equal(found[parameter], gradient), (every, parameter)


@pytest.mark.parametrize(
    ("every", "again"), [(0, []), (1, [0, 1, 2, 3, 4, 5]), (2, [1, 3, 5]), (4, [3])]
)
def test_every_nth_block_is_computed_twice_and_none_afterwards(every, again):
    model = HybridLM(ALL["sequential hybrid"])
    assert len(model.blocks) == 6
    calls: list[int] = []
    for index, block in enumerate(model.blocks):
        norm = block.get_submodule("norm")
        norm.register_forward_hook(lambda *_, i=index: calls.append(i))
    gradients(model, every)
    assert sorted(calls) == sorted([*range(6), *again])
    assert all("forward" not in vars(block) for block in model.blocks)


def test_less_is_kept_between_forward_and_backward():
    model = HybridLM(ALL["sequential hybrid"])
    kept = []
    for every in (0, 2, 1):
        seen: dict[int, int] = {}

        def pack(tensor, seen=seen):
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        with recomputed(model, every), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            model.loss(TOKENS, TOKENS.roll(1), SEGMENTS)
        kept.append(sum(seen.values()))
    assert kept[0] > kept[1] > kept[2]


def test_a_run_may_change_it_on_resume_and_is_the_same(tmp_path):
    plain = real_recipe("fp32")
    saving = plain.model_copy(
        update={"train": plain.train.model_copy(update={"activation_checkpointing": 1})}
    )
    train(plain, tmp_path / "plain")
    train(saving, tmp_path / "saving")
    assert_same_run(tmp_path / "plain", tmp_path / "saving")
    assert train(plain, tmp_path / "saving", resume=True).step == 6


def test_more_than_there_are_blocks_is_refused_before_anything_is_written(tmp_path):
    recipe = real_recipe("fp32")
    fields = {"train": recipe.train.model_copy(update={"activation_checkpointing": 5})}
    words = r"train\.activation_checkpointing = 5: must be at most 4, the model's blocks"
    with pytest.raises(InputError, match=words):
        train(recipe.model_copy(update=fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="at most 0"), recomputed(nn.Linear(1, 1), 1):
        pass

"""Shared letters: one set of weights, many uses, in training, checkpoints and optimizers."""

import pytest
import torch

from braidlm import checkpoint, interop
from braidlm.arch.experiment import TrainConfig
from braidlm.model import HybridLM
from braidlm.train.optimizer import build_optimizer, describe_groups
from braidlm.train.recompute import recomputed
from tests.specs import SHARED, spec


def tokens(rows: int, length: int) -> torch.Tensor:
    return torch.randint(31, (rows, length), generator=torch.Generator().manual_seed(3))


def built(name: str) -> HybridLM:
    torch.manual_seed(1)
    return HybridLM(SHARED[name]).double()


def gradients(model: HybridLM) -> dict[str, torch.Tensor]:
    row = tokens(2, 12)
    loss = model.loss(row[:, :-1], row[:, 1:])
    names, weights = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, weights), strict=True))


def test_a_shared_weight_has_the_gradients_of_all_its_uses():
    """An unshared twin with equal weights computes the same; its gradients add up."""
    model = built("one shared letter")
    torch.manual_seed(2)
    twin = HybridLM(spec("M*-M*-")).double()
    twin.load_state_dict(model.state_dict())
    row = tokens(1, 9)
    assert torch.equal(model(row).hidden, twin(row).hidden)
    ours, theirs = gradients(model), gradients(twin)
    for name, gradient in ours.items():
        expected = theirs[name]
        block = int(name.split(".")[1]) if name.startswith("blocks") else 0
        if block in (1, 2):
            expected = expected + theirs[name.replace(f"blocks.{block}.", f"blocks.{block + 3}.")]
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12, msg=name)


def test_the_uses_of_a_block_differ_by_their_own_weights_alone():
    model = built("two shared blocks (Zamba2)")
    names = [name for name, _ in model.named_parameters()]
    second = [n.removeprefix("blocks.10.") for n in names if n.startswith("blocks.10.")]
    assert second == ["adapters.down.weight", *(f"adapters.ups.{i}.weight" for i in range(3))]
    again = [n.removeprefix("blocks.11.") for n in names if n.startswith("blocks.11.")]
    assert again == ["adapters.down.weight", "adapters.ups.0.weight", "use_proj.weight"]


@pytest.mark.parametrize("name", SHARED)
def test_a_checkpoint_holds_shared_weights_once(name, tmp_path):
    model, other = built(name), HybridLM(SHARED[name]).double()
    kept = checkpoint.unique_tensors(model)
    assert set(kept) == {n for n, _ in model.named_parameters()}
    path = checkpoint.save(tmp_path / "step-1", model, recipe={})
    checkpoint.load_weights(path, other)
    assert torch.equal(other(tokens(1, 9)).hidden, model(tokens(1, 9)).hidden)


def test_a_folder_of_our_own_format_holds_them(tmp_path):
    model = built("two shared blocks (Zamba2)").float()
    interop.save(model, tmp_path / "out", format="braid-hf")
    from braidlm.hf import BraidForCausalLM

    theirs = BraidForCausalLM.from_pretrained(tmp_path / "out")
    row = tokens(1, 9)
    expected = model.head(model(row).hidden)
    torch.testing.assert_close(theirs(input_ids=row).logits, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_optimizer_updates_each_weight_once(name, optimizer):
    model = built(name).float()
    groups = describe_groups(build_optimizer(model, TrainConfig(optimizer=optimizer)))
    n_params = sum(p.numel() for p in model.parameters())
    assert sum(g.n_params for g in groups) == n_params


def test_blocks_that_are_computed_again_have_the_same_gradients():
    model = built("two shared blocks (Zamba2)")
    plain = gradients(model)
    with recomputed(model, 1):
        again = gradients(model)
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=0, atol=1e-14)

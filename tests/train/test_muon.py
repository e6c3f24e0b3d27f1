import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, distribute_tensor

from braidlm.arch import Recipe
from braidlm.arch.experiment import MuonConfig, TrainConfig
from braidlm.errors import InputError
from braidlm.model import HybridLM
from braidlm.train import train
from braidlm.train.muon import Muon, hidden_matrices
from braidlm.train.optimizer import (
    build_optimizer,
    describe_groups,
    load_optimizer_state,
    optimizer_state,
    set_learning_rate,
)
from tests.specs import ALL, spec

from .test_loop import Stopping, assert_same_run, real_recipe

CONFIG = TrainConfig(
    optimizer="muon", lr=0.02, weight_decay=0.3, muon=MuonConfig(momentum=0.8, weight_decay=0.2)
)


def split_weights(loss: torch.Tensor) -> dict[int, int]:
    """Which weights' products are cut into pieces: id of the weight -> pieces of the first cut.

    The graph is walked from the loss: a cut is a node whose input leads, through nodes that only
    reshape, to a product with a weight.
    """
    found, seen, stack = {}, set(), [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        inputs = [n for n, _ in node.next_functions]
        stack += inputs
        is_cut = any(word in node.name() for word in ("Split", "Slice", "Unbind", "Narrow"))
        if is_cut and not is_one_piece(node) and not cuts_inside_heads(node):
            itself = [getattr(inputs[0], "variable", None)]  # cut before its product
            itself = [w for w in itself if w is not None and w.dim() == 2]
            for weight in [*itself, *product_weights(inputs[0])]:
                found[id(weight)] = getattr(node, "_saved_split_sizes", None) or 2
    return found


def is_one_piece(node) -> bool:
    """Whether it keeps a part of the tokens, or the whole."""
    shape, axis = getattr(node, "_saved_self_sym_sizes", ()), getattr(node, "_saved_dim", None)
    is_whole = bool(shape) and getattr(node, "_saved_split_size", None) == shape[-1]
    return is_whole or ("Slice" in node.name() and len(shape) == 3 and axis == 1)


def cuts_inside_heads(node) -> bool:
    """Whether the halves of every head's channels are told apart, as rotary positions do."""
    shape = getattr(node, "_saved_self_sym_sizes", ())
    return len(shape) == 4 and getattr(node, "_saved_dim", 0) in (3, 2**64 - 1)


def product_weights(node) -> list[torch.Tensor]:
    """The weights of the products that a node adds up, behind nodes that only reshape or scale."""
    while any(word in node.name() for word in ("View", "Reshape", "Transpose", "ToCopy", "Mul")):
        node = node.next_functions[0][0]
    if "AddBackward" in node.name():
        return [w for n, _ in node.next_functions if n is not None for w in product_weights(n)]
    if not any(word in node.name() for word in ("MmBackward", "Addmm")):
        return []
    leaves = [n for n, _ in node.next_functions if n is not None]
    leaves = [n.next_functions[0][0] if n.name() == "TBackward0" else n for n in leaves]
    leaves = [n.next_functions[0][0] if n.name() == "UnbindBackward0" else n for n in leaves]
    weights = (n.variable for n in leaves if hasattr(n, "variable"))
    return [weight for weight in weights if weight.dim() > 1][:1]  # not a bias


@pytest.mark.parametrize("name", ALL)
def test_every_fused_projection_is_declared(name):
    """A weight whose product is cut is declared, and no declared edge is missing."""
    model = HybridLM(ALL[name])
    cut = split_weights(model.loss(torch.zeros(2, 9, dtype=torch.int64), torch.ones(2, 9).long()))
    parts = hidden_matrices(model)
    names = {id(p): n for n, p in model.named_parameters()}
    weights = dict(model.named_parameters())
    fused = {n for n, rows in parts.items() if len(rows) > n_stacked(weights[n])}
    assert fused == {names[key] for key in cut}
    for key, sizes in cut.items():
        if isinstance(sizes, (list, tuple)) and sum(sizes) == sum(parts[names[key]]):
            assert edges(sizes) <= edges(parts[names[key]]), names[key]


def n_stacked(weight: torch.Tensor) -> int:
    return len(weight) if weight.dim() == 3 else 1


def edges(sizes) -> set[int]:
    return {sum(sizes[:i]) for i in range(len(sizes))}


def test_the_parts_are_those_of_the_mixers():
    declared = spec(
        "M*-{M*}",
        mixers={"M": {"n_groups": 2}, "*": {"v_head_dim": 6}},
        fusion={"combine": "cross_attention"},
    )
    parts = hidden_matrices(HybridLM(declared))
    # 4 heads of 4, 2 groups of 6 states; 4 query and 2 key heads of 4, value heads of 6.
    assert parts["blocks.0.mix.mixer.in_proj.weight"] == (16, 16, 12, 12, 4)
    assert parts["blocks.1.mix.mixer.in_proj.weight"] == (16, 8, 12)
    assert parts["blocks.2.mix.mixer.in_proj.weight"] == (24, 24)
    rows = parts["blocks.3.mix.combine.kv_proj.weight"]
    assert len(rows) == 2
    assert rows[0] == rows[1]
    assert parts["blocks.3.mix.combine.q_proj.weight"] == (16,)


@pytest.mark.parametrize("tied", [True, False])
def test_hidden_matrices_are_muons_and_the_rest_is_adamws(tied):
    model = HybridLM(spec("M{M*}-", tie_embeddings=tied, fusion={"scale": "learned"}))
    groups = {g.name: g for g in describe_groups(build_optimizer(model, CONFIG))}
    matrices = {n for n, _ in model.named_parameters() if "_proj" in n}
    assert {n.partition("[")[0] for n in groups["muon"].names} == matrices
    assert len(matrices) == 2 + 4 + 2
    head = set() if tied else {"lm_head.weight"}
    convolutions = {n for n, _ in model.named_parameters() if n.endswith("conv_weight")}
    assert set(groups["decay"].names) == {"embedding.weight"} | head | convolutions
    assert (groups["muon"].weight_decay, groups["decay"].weight_decay) == (0.2, 0.3)
    n_params = sum(p.numel() for p in model.parameters())
    assert sum(g.n_params for g in groups.values()) == n_params


class Fused(nn.Module):
    """q, k, v of unequal heights in one weight, and one that is not fused."""

    def __init__(self, weights: list[torch.Tensor]) -> None:
        super().__init__()
        self.proj = nn.Linear(6, 11, bias=False)
        self.out = nn.Linear(6, 3, bias=False)
        self.proj.weight.data.copy_(torch.cat(weights[:3]))
        self.out.weight.data.copy_(weights[3])

    rows: tuple[int, ...] = (6, 4, 1)

    def row_parts(self) -> dict[str, tuple[int, ...]]:
        return {"proj.weight": self.rows}


@pytest.mark.parametrize("adjust", ["match_rms_adamw", "original"])
def test_a_step_on_a_fused_weight_is_a_step_on_each_part(adjust):
    torch.manual_seed(0)
    apart: list[torch.Tensor] = [nn.Parameter(torch.randn(n, 6)) for n in (6, 4, 1, 3)]
    model = Fused([p.data for p in apart])
    settings = MuonConfig(momentum=0.8, weight_decay=0.2, adjust_lr_fn=adjust)
    ours = build_optimizer(model, CONFIG.model_copy(update={"muon": settings}))
    truth = torch.optim.Muon(
        apart, lr=0.02, momentum=0.8, weight_decay=0.2, adjust_lr_fn=adjust, nesterov=True
    )
    for _ in range(3):
        for p in apart:
            p.grad = torch.randn_like(p)
        model.proj.weight.grad = torch.cat([p.grad for p in apart[:3] if p.grad is not None])
        model.out.weight.grad = apart[3].grad
        ours.step()
        truth.step()
    assert torch.equal(model.proj.weight, torch.cat(apart[:3]))
    assert torch.equal(model.out.weight, apart[3])
    ours.zero_grad()
    assert model.proj.weight.grad is None


def test_muons_rate_and_the_schedules_share_of_it():
    model = HybridLM(spec("M-"))
    own = CONFIG.model_copy(update={"muon": MuonConfig(lr=0.06)})
    for config, rate in ((CONFIG, 0.01), (own, 0.03)):
        optimizer = build_optimizer(model, config)
        set_learning_rate(optimizer, 0.01)
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        assert rates == {"decay": 0.01, "no_decay": 0.01, "muon": pytest.approx(rate)}


def test_momentum_is_kept_by_the_weights_name():
    model = HybridLM(spec("M"))
    optimizer = build_optimizer(model, CONFIG)
    assert optimizer_state(optimizer) == {}
    batch = torch.zeros(2, 9, dtype=torch.int64)
    model.loss(batch, batch).backward()
    optimizer.step()
    state = optimizer_state(optimizer)
    assert set(state) == {n for n, _ in model.named_parameters()}
    weight = model.get_parameter("blocks.0.mix.mixer.in_proj.weight")
    buffer = state["blocks.0.mix.mixer.in_proj.weight"]["momentum_buffer"]
    assert weight.grad is not None
    torch.testing.assert_close(buffer, weight.grad * (1 - 0.8))
    again = build_optimizer(model, CONFIG)
    load_optimizer_state(again, state)
    for name, stored in optimizer_state(again).items():
        for key, value in stored.items():
            assert torch.equal(value, state[name][key])
    with pytest.raises(InputError, match=r"in_proj.weight' has shape \(3,\)"):
        load_optimizer_state(
            again, {"blocks.0.mix.mixer.in_proj.weight": {"momentum_buffer": torch.ones(3)}}
        )


def test_a_hybrid_under_muon_resumes_bit_by_bit(tmp_path):
    plain = real_recipe("fp32").to_dict()
    plain["train"] |= {"optimizer": "muon", "muon": {"lr": 0.01}}
    config = Recipe.from_dict(plain)
    train(config, tmp_path / "whole")
    assert train(config, tmp_path / "parts", mixture=Stopping(config, 2)).step == 3
    train(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_weights_without_a_gradient_stay():
    model = Fused([torch.randn(n, 6) for n in (6, 4, 1, 3)])
    before = model.proj.weight.detach().clone()
    model.out.weight.grad = torch.ones(3, 6)
    optimizer = build_optimizer(model, CONFIG)
    optimizer.step()
    assert torch.equal(model.proj.weight, before)
    assert set(optimizer_state(optimizer)) == {"out.weight"}


def test_sharded_weights_are_refused_by_name():
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        weight = distribute_tensor(torch.ones(4, 4), mesh, [Replicate()])
        with pytest.raises(InputError, match=r"'muon': the weight 'a.weight' is sharded"):
            Muon(
                [{"name": "muon", "params": [("a.weight", weight)], "lr_ratio": 1.0}],
                {"a.weight": (4,)},
                0.1,
                MuonConfig(),
            )
    finally:
        dist.destroy_process_group()


def test_rows_that_do_not_add_up_are_refused():
    model = Fused([torch.randn(n, 6) for n in (6, 4, 1, 3)])
    model.rows = (6, 4)
    with pytest.raises(ValueError, match=r"row_parts of 'proj.weight' = \(6, 4\)"):
        hidden_matrices(model)

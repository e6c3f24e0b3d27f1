"""The one model: how it begins, what is tied, where it may be built, and that it learns."""

import pytest
import torch
import torch.nn.functional as F

from braidlm import state as states
from braidlm.arch import Spec
from braidlm.arch.experiment import TrainConfig
from braidlm.model import HybridLM
from braidlm.ops.attention import KVCache
from braidlm.train.optimizer import build_optimizer, describe_groups
from tests.specs import ALL, FUSIONS, PARALLEL, SHARED, WHOLE, WIRED, spec
from tests.tolerances import MODEL_BF16

WIDE = {"M": {"head_dim": 32, "d_state": 32}, "*": {"head_dim": 32}, "-": {"d_ff": 256}}


def wide(pattern: str, **fields) -> Spec:
    """Wide enough for statistics."""
    return Spec.of(
        {"pattern": pattern, "d_model": 128, "vocab_size": 500, "mixers": WIDE, **fields}
    )


def tokens(rows: int, length: int, seed: int = 3) -> torch.Tensor:
    return torch.randint(31, (rows, length), generator=torch.Generator().manual_seed(seed))


class TestInitialisation:
    @pytest.mark.parametrize("init_std", [0.02, 0.1])
    @pytest.mark.parametrize("fusion", [*FUSIONS.values(), {"combine": "add", "norm": "none"}])
    def test_every_matrix_has_the_declared_spread(self, fusion, init_std):
        fusion = {k: v for k, v in fusion.items() if k != "cross"}
        equal = {**WIDE, "M": {**WIDE["M"], "expand": 1}}
        model = HybridLM(
            wide("{M*}-M*", fusion=fusion, init_std=init_std, mixers=equal, tie_embeddings=False)
        )
        seen = 0
        for name, weight in model.named_parameters():
            if weight.dim() < 2 or "conv" in name:
                continue
            # The standard deviation of n normal draws is itself off by 1 / sqrt(2 n).
            error = 5 * (2 * weight.numel()) ** -0.5
            assert float(weight.detach().std()) == pytest.approx(init_std, rel=error), name
            assert abs(float(weight.detach().mean())) < 5 * init_std * weight.numel() ** -0.5, name
            seen += 1
        assert seen >= 2 + 2 + 1 + 2 + 2 + 2  # embedding and head, branches, fusion, three mixers

    def test_the_default_spread_is_that_of_the_width(self):
        weight = HybridLM(wide("M")).embedding.weight.detach()
        assert float(weight.std()) == pytest.approx(128**-0.5, rel=0.02)

    @pytest.mark.parametrize("fusion", FUSIONS.values())
    def test_depth_scaling_shrinks_output_projections_alone(self, fusion):
        fusion = {k: v for k, v in fusion.items() if k != "cross"}
        equal = {**WIDE, "M": {**WIDE["M"], "expand": 1}}
        built = []
        for scaled in (False, True):
            torch.manual_seed(0)
            declared = wide("M-{M*}-", fusion=fusion, mixers=equal, depth_scaled_init=scaled)
            built.append(HybridLM(declared))
        plain, small = built
        shrunk = set()
        for name, weight in small.named_parameters():
            is_smaller = bool(weight.any()) and torch.allclose(
                weight, plain.get_parameter(name) / 2
            )
            assert is_smaller or torch.equal(weight, plain.get_parameter(name)), name
            if is_smaller:
                shrunk.add(name)
        n_of_fusion = len([n for n in shrunk if n.startswith("blocks.2.")])
        assert all("out_proj" in name for name in shrunk)
        assert {n for n in shrunk if ".2." not in n} == {
            f"blocks.{i}.mix.out_proj.weight" for i in (0, 1, 3)
        }
        assert n_of_fusion == len(
            [n for n, _ in small.blocks[2].named_parameters() if "out_proj" in n]
        )

    def test_norms_begin_without_gain(self):
        model = HybridLM(wide("{M*}", fusion={"norm": "group", "scale": "learned"}))
        for name, weight in model.named_parameters():
            if "norm" in name or "scales" in name:
                assert torch.equal(weight, torch.ones_like(weight)), name


class TestTying:
    def test_a_tied_head_is_the_embedding_with_both_gradients(self):
        tied, untied = (HybridLM(spec("M-", tie_embeddings=t)) for t in (True, False))
        assert tied.lm_head.weight is tied.embedding.weight
        assert untied.lm_head.weight is not untied.embedding.weight
        for name, weight in untied.named_parameters():
            source = "embedding.weight" if name == "lm_head.weight" else name
            weight.data.copy_(tied.get_parameter(source))
        row = tokens(2, 9)
        for model in (tied, untied):
            model.loss(row[:, :-1], row[:, 1:]).backward()
        grads = untied.embedding.weight.grad, untied.lm_head.weight.grad
        assert grads[0] is not None
        assert grads[1] is not None
        assert grads[0].abs().max() > 1e-4
        torch.testing.assert_close(tied.embedding.weight.grad, grads[0] + grads[1])

    def test_the_head_is_a_product_with_its_weight(self):
        model = HybridLM(spec("M-", tie_embeddings=False))
        hidden = torch.randn(2, 3, 16)
        expected = hidden @ model.lm_head.weight.T
        torch.testing.assert_close(model.head(hidden), expected)


@pytest.mark.parametrize(
    "name",
    [
        *(*WHOLE, *WIRED, *SHARED, "kda", "cross-attention (Lee)", "two fusions"),
        "experts, sigmoid, groups, bias, latent (Nemotron 3)",
        "B'MOJO-F, untied, gated deltanet, norms, biases",
    ],
)
def test_a_model_built_without_memory_is_completed_by_a_reset(name):
    """No parameter, buffer or tie is left as `to_empty` makes it."""
    with torch.device("meta"):
        model = HybridLM(ALL[name])
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(float("nan"))
    torch.manual_seed(5)
    model.reset_parameters()
    direct = HybridLM(ALL[name])
    torch.manual_seed(5)
    direct.reset_parameters()
    assert model.state_dict().keys() == direct.state_dict().keys()
    for (key, a), b in zip(model.named_parameters(), direct.parameters(), strict=True):
        assert torch.equal(a, b), key
    for (key, a), b in zip(model.named_buffers(), direct.buffers(), strict=True):
        assert torch.equal(a, b), key
    assert (model.lm_head.weight is model.embedding.weight) == model.spec.tie_embeddings
    row = tokens(1, 9)
    assert torch.equal(model(row).hidden, direct(row).hidden)
    assert torch.equal(model.head(model(row).hidden), direct.head(direct(row).hidden))


@pytest.mark.parametrize("name", ALL)
def test_a_state_dict_makes_another_model_the_same(name):
    torch.manual_seed(1)
    source = HybridLM(ALL[name])
    for parameter in source.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    target = HybridLM(ALL[name])
    row = tokens(1, 9)
    assert not torch.equal(source(row).hidden, target(row).hidden)
    target.load_state_dict(source.state_dict())
    assert torch.equal(source(row).hidden, target(row).hidden)


def test_exactly_the_matrices_decay():
    declared = spec("M{M*}-", fusion={"norm": "group", "scale": "learned"}, tie_embeddings=False)
    model = HybridLM(declared)
    groups = {g.name: set(g.names) for g in describe_groups(build_optimizer(model, TrainConfig()))}
    mamba = {"conv_bias", "norm_weight", "dynamics.A_log", "dynamics.D", "dynamics.dt_bias"}
    assert groups["no_decay"] == (
        {f"blocks.{i}.norm.weight" for i in range(3)}
        | {"norm.weight"}
        | {f"blocks.0.mix.mixer.{n}" for n in mamba}
        | {f"blocks.1.mix.branches.0.{n}" for n in mamba}
        | {f"blocks.1.mix.norms.{i}.weight" for i in (0, 1)}
        | {f"blocks.1.mix.scales.{i}" for i in (0, 1)}
    )
    assert groups["decay"] == {n for n, _ in model.named_parameters()} - groups["no_decay"]
    assert all(model.get_parameter(n).dim() == 2 for n in groups["decay"])


class TestTheForwardPass:
    def test_a_block_adds_its_mixer_to_the_stream(self):
        model = HybridLM(spec("M-", mixers={"-": {"gated": False, "activation": "relu2"}}))
        mixer = model.get_submodule("blocks.0.mix.mixer")

        def mamba(x):
            return mixer(x, None, None, False)[0]

        def mlp(x):
            return F.relu(x @ model.get_parameter("blocks.1.mix.mixer.in_proj.weight").T).square()

        row = tokens(2, 7)
        hidden = model.embedding(row)
        for i, function in enumerate((mamba, mlp)):
            normed = F.rms_norm(hidden, (16,), model.get_parameter(f"blocks.{i}.norm.weight"), 1e-5)
            out_proj = model.get_parameter(f"blocks.{i}.mix.out_proj.weight")
            hidden = hidden + function(normed) @ out_proj.T
        expected = F.rms_norm(hidden, (16,), model.norm.weight, 1e-5)
        torch.testing.assert_close(model(row).hidden, expected)

    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    def test_the_loss_is_cross_entropy_of_the_logits(self, reduction):
        model = HybridLM(spec("M*-", tie_embeddings=False))
        row, targets = tokens(2, 9), tokens(2, 9, 8)
        targets[0, :4] = -100
        logits = model.head(model(row).hidden)
        expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)
        found = model.loss(row, targets, reduction=reduction)
        torch.testing.assert_close(found.flatten(), expected.flatten())

    def test_a_state_is_made_only_when_asked_for(self):
        model = HybridLM(spec("M*-"))
        assert model(tokens(1, 3), return_state=False).state is None
        state = model(tokens(1, 3)).state
        assert [type(s).__name__ for s in state] == ["Mamba2State", "KVCache", "NoneType"]

    def test_a_state_of_another_model_is_refused(self):
        model = HybridLM(spec("M*-"))
        with pytest.raises(ValueError, match="shorter"):
            model(tokens(1, 3), state=model(tokens(1, 3)).state[:2])


@pytest.mark.parametrize("name", ["sequential hybrid", "cross-attention (Lee)", "subtract (Bae)"])
def test_bf16_autocast_stays_near_fp32_and_keeps_its_states_precise(name):
    torch.manual_seed(0)
    model = HybridLM(ALL[name])
    row = tokens(2, 40)
    exact = model(row)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(row)
    assert relative(rough.hidden, exact.hidden) < MODEL_BF16
    assert relative(rough.hidden, exact.hidden) > 1e-5  # it did run in bf16
    for memory in leaves(rough.state):
        if isinstance(memory, KVCache):
            assert memory.k.dtype == memory.v.dtype == torch.bfloat16
        else:
            assert {t.dtype for t in memory} == {torch.float32}
    pairs = zip(states.tensors(rough.state), states.tensors(exact.state), strict=True)
    for a, b in pairs:
        assert relative(a, b) < MODEL_BF16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_states_have_the_dtypes_that_are_promised(dtype):
    model = HybridLM(spec("M{M*}*", fusion=FUSIONS["cross-attention (Lee)"])).to(dtype)
    found = leaves(model(tokens(1, 5)).state)
    assert len(found) == 1 + 2 + 1 + 1
    for memory in found:
        floating = {t.dtype for t in memory if t.is_floating_point()}
        assert floating == {dtype}
        assert not isinstance(memory, KVCache) or memory.length.dtype == torch.int64


def leaves(state) -> list[tuple]:
    """The Mamba-2 states and caches inside a state."""
    if state is None:
        return []
    if any(isinstance(part, torch.Tensor) for part in state):
        return [state]
    return [leaf for part in state for leaf in leaves(part)]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", [*PARALLEL, *WHOLE, *WIRED, *SHARED])
def test_every_fusion_learns_a_fixed_batch(name):
    torch.manual_seed(0)
    model = HybridLM(ALL[name])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    row = tokens(4, 17)
    losses = []
    for _ in range(15):
        loss = model.loss(row[:, :-1], row[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert missing == []
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 3.0  # ln 31 = 3.43
    assert losses[-1] < 0.6 * losses[0]

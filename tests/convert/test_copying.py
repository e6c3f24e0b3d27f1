"""Stage 0: what is copied is where it belongs, and what can be exact is exact."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.convert.tiny import build, converted, spec, tokens


def lively(config: Any, seed: int = 0):
    """A teacher whose norms are not ones, so that a norm left out would be seen."""
    model = build(config, seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("pattern", ["({M*}-)2", "({*G}-)2", "{*MG}-*-", "({*W}-)2"])
def test_a_parallel_student_begins_as_the_teacher_bit_for_bit(pattern):
    teacher = lively(spec())
    student, _ = converted(teacher, pattern)
    x = tokens()
    assert torch.equal(student(x).hidden, teacher(x).hidden)


def test_a_share_is_what_the_attention_gives_up():
    teacher = lively(spec())
    student, found = converted(teacher, "{M*}-*-", share=0.25)
    mix: Any = student.blocks[0].mix
    assert [scale[0].item() for scale in mix.scales] == [0.25, 0.75]
    assert not torch.equal(student(tokens()).hidden, teacher(tokens()).hidden)
    assert found.changes[0].kept == 1


def test_a_wide_window_is_the_teacher_itself():
    teacher = lively(spec())
    student, _ = converted(teacher, "(W-)2", mixers={"W": {"window": 64}})
    assert torch.equal(student(tokens()).hidden, teacher(tokens()).hidden)


def test_everything_but_the_new_mixers_is_the_teachers():
    teacher = lively(spec())
    student, _ = converted(teacher, "M-*-")
    theirs = teacher.state_dict()
    for name, tensor in student.state_dict().items():
        if not name.startswith("blocks.0.mix."):
            assert torch.equal(tensor, theirs[name]), name


def features(teacher: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """SiLU of what the first attention projects of x (1, T, d): q, k, v (T, heads, 4)."""
    q, k, v = F.linear(x[0], teacher.blocks[0].mix.mixer.in_proj.weight).split([16, 8, 8], -1)
    shared = [part.unflatten(-1, (2, 4)).repeat_interleave(2, 1) for part in (k, v)]
    return tuple(F.silu(part) for part in (q.unflatten(-1, (4, 4)), *shared))


@torch.no_grad()
def test_without_forgetting_the_copied_mamba2_is_linear_attention():
    teacher = lively(spec()).double()
    student, _ = converted(teacher, "M-*-")
    mix: Any = student.double().blocks[0].mix
    mixer = mix.mixer
    mixer.in_proj.weight[-4:] = 0.0  # dt
    mixer.dynamics.dt_bias.fill_(torch.expm1(torch.tensor(1.0)).log())  # softplus of it is 1
    mixer.dynamics.A_log.fill_(-40.0)
    mixer.dynamics.D.zero_()
    x = torch.randn(1, 9, 16, dtype=torch.float64)
    q, k, v = features(teacher, x)
    y = torch.stack([
        torch.einsum("hn,shn,shp->hp", q[t], k[: t + 1], v[: t + 1]) for t in range(9)
    ])  # fmt: skip
    u = y * (y.square().mean(-1, keepdim=True) + mixer.norm_eps).rsqrt()
    attention: Any = teacher.blocks[0].mix
    out = attention.out_proj.weight
    torch.testing.assert_close(
        mix(x, None, None, False)[0][0], u.flatten(1) @ out.t(), rtol=1e-6, atol=1e-7
    )


@torch.no_grad()
def test_without_forgetting_the_copied_gated_deltanet_is_the_delta_rule():
    teacher = lively(spec()).double()
    student, _ = converted(teacher, "G-*-")
    mix: Any = student.double().blocks[0].mix
    mixer = mix.mixer
    mixer.in_proj.weight[-8:] = 0.0  # a and b: beta is 1/2
    mixer.dynamics.A_log.fill_(-40.0)
    x = torch.randn(1, 9, 16, dtype=torch.float64)
    q, k, v = features(teacher, x)
    q, k = (part / (part.square().sum(-1, keepdim=True) + 1e-6).sqrt() for part in (q, k))
    attention: Any = teacher.blocks[0].mix
    values = attention.mixer.in_proj.weight[-8:].unflatten(0, (2, 4)).repeat_interleave(2, 0)
    gate = F.silu(x[0] @ ((attention.out_proj.weight.t() + values.flatten(0, 1)) / 2).t())
    memory, rows = torch.zeros(4, 4, 4, dtype=torch.float64), []
    for t in range(9):
        wrong = v[t] - torch.einsum("hkv,hk->hv", memory, k[t])
        memory = memory + torch.einsum("hk,hv->hkv", k[t], wrong) / 2
        rows.append(torch.einsum("hkv,hk->hv", memory, q[t]) / 2)
    y = torch.stack(rows)
    u = y * (y.square().mean(-1, keepdim=True) + mixer.norm_eps).rsqrt()
    want = (u.flatten(1) * gate) @ attention.out_proj.weight.t()
    torch.testing.assert_close(mix(x, None, None, False)[0][0], want, rtol=1e-6, atol=1e-7)


def test_a_shape_that_does_not_fit_is_drawn_and_not_told_as_copied():
    from braidlm.convert.copying import copy_weights
    from tests.convert.tiny import aimed

    teacher = build(spec())
    found = aimed(spec(), "M-*-", mixers={"M": {"d_state": 6}})
    student = build(found.spec, 1)
    before = student.state_dict()["blocks.0.mix.mixer.in_proj.weight"].clone()
    (row,) = copy_weights(student, teacher, found.changes, 0.0)
    after = student.state_dict()["blocks.0.mix.mixer.in_proj.weight"]
    z, x, b, c, dt = after.split((16, 16, 24, 24, 4))
    assert row["copied"] == "x <- v, z <- 1, out <- o"
    assert torch.equal(torch.cat((b, c, dt)), before[32:])
    assert not torch.equal(x, before[16:32])
    assert not z.any()


def test_biases_of_the_attention_go_along():
    mixers = {"*": {"n_heads": 4, "in_bias": True, "out_bias": True}, "-": {"d_ff": 24}}
    teacher = lively(spec(mixers=mixers))
    with torch.no_grad():
        for name, p in teacher.named_parameters():
            if name.endswith("bias"):
                p.uniform_(-1, 1)
    student, _ = converted(teacher, "M-*-")
    theirs, own = teacher.state_dict(), student.state_dict()
    q, k, v = theirs["blocks.0.mix.mixer.in_proj.bias"].split(16)
    _, x, b, c, _ = own["blocks.0.mix.mixer.in_proj.bias"].split((16, 16, 16, 16, 4))
    assert all(torch.equal(p, r) for p, r in ((c, q), (b, k), (x, v)))
    name = "blocks.0.mix.out_proj.bias"
    assert torch.equal(own[name], theirs[name])

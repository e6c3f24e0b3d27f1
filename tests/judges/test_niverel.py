"""Packed documents against niverel-mamba, whose Mamba-2 resets at document boundaries on a CPU.

Its block has mamba_ssm's parameter names. Three implementations of it share little code: a scan
token by token (the oracle), a chunked one with masks, and one that splits rows at boundaries. All
agree with ours. Its `seq_idx` must not decrease, so padding is a last document here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from braidlm.arch import Spec
from braidlm.blocks import Single
from braidlm.interop.tables import MAMBA2
from braidlm.ops.ssd import ssd
from braidlm.segments import Segments
from tests.judges.judging import Widened, distance, enliven, gradients, probe, relative

judge = pytest.importorskip("niverel_mamba.torch")

EXACT = 1e-12
"""Measured: outputs and states 2e-15, relative gradients 2e-15 (block), 2e-14 (operator)."""
CHUNK, LENGTH = 8, 24
SHAPE = {"n_heads": 6, "head_dim": 5, "d_state": 7, "n_groups": 3, "d_conv": 3}


class Packing(NamedTuple):
    rows: list[tuple[int, ...]]
    """Lengths of the documents of each row."""
    first_id: int = 0

    @property
    def segments(self) -> Segments:
        return Segments.from_lengths(self.rows, total=LENGTH)

    @property
    def seq_idx(self) -> Tensor:
        """The judge's form: ids that grow along each row; padding is one more document."""
        ids = []
        for row in self.rows:
            runs = [*row, LENGTH - sum(row)]
            numbers = torch.arange(len(runs)) + self.first_id
            ids.append(torch.repeat_interleave(numbers, torch.tensor(runs)))
        return torch.stack(ids)

    @property
    def last_documents(self) -> list[int]:
        """Our index of each row's last document."""
        return [sum(len(r) for r in self.rows[: i + 1]) - 1 for i in range(len(self.rows))]

    @property
    def first_documents(self) -> list[int]:
        """Our index of each row's first document."""
        return [sum(len(r) for r in self.rows[:i]) for i in range(len(self.rows))]


PACKINGS = {
    "boundary at 0": Packing([(24,), (24,)]),
    "documents of length 1": Packing([(1, 22, 1), (1, 23)]),
    "consecutive boundaries": Packing([(7, 1, 1, 1, 14), (8, 1, 1, 14)]),
    "boundary on a chunk edge": Packing([(8, 16), (16, 8)]),
    "several documents in one chunk": Packing([(2, 3, 2, 17), (9, 1, 2, 3, 9)]),
    "rows with different boundaries": Packing([(5, 19), (17, 7)]),
    "tail padding": Packing([(9, 10), (4, 13)]),
    "non-zero first id": Packing([(11, 13), (3, 21)], first_id=5),
    "many short documents": Packing([(1, 2) * 8, (2,) * 12]),
}
BLOCKS = {
    "gate first": ({"rmsnorm": True}, {"norm": "gate_first"}),
    "norm first": ({"rmsnorm": True, "norm_before_gate": True}, {"norm": "norm_first"}),
    "no norm, no bias": ({"rmsnorm": False, "conv_bias": False}, {"norm": "none"}),
}


Names = dict[str, str]
"""Our parameter -> theirs, of another shape at most."""


def blocks(kind: str, ssd_impl: Any = "chunked") -> tuple[Single, Any, Names]:
    """Our mixer with its output projection, the judge's, and the map between them."""
    their_fields, our_fields = BLOCKS[kind]
    conv_bias = their_fields.get("conv_bias", True)
    config = judge.Mamba2Config(
        d_model=15, d_state=7, d_conv=3, headdim=5, ngroups=3, chunk_size=CHUNK, **their_fields
    )
    theirs = judge.Mamba2(config, ssd_impl=ssd_impl)
    enliven(theirs)
    mixer = {**SHAPE, **our_fields, "conv_bias": conv_bias, "chunk_size": CHUNK}
    spec = Spec.of({"pattern": "M", "d_model": 15, "vocab_size": 31, "mixers": {"M": mixer}})
    ours = Single(spec.sublayers[0], spec)
    present = {n for n, _ in theirs.named_parameters()}
    single = {f"mixer.{k}": rows.names[0] for k, rows in MAMBA2.items()}
    names = {k: v for k, v in single.items() if v in present} | {
        "out_proj.weight": "out_proj.weight"
    }
    ours, theirs = ours.double(), theirs.double()
    assert sorted(names.values()) == sorted(present)
    ours.load_state_dict(
        gather(names, dict(theirs.named_parameters()), dict(ours.named_parameters()))
    )
    return ours, theirs, names


def gather(
    names: Names, theirs: Mapping[str, Tensor], like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Their tensors under our names and in our shapes."""
    return {ours: theirs[name].detach().reshape(like[ours].shape) for ours, name in names.items()}


@pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)
@pytest.mark.parametrize("kind", BLOCKS)
def test_a_packed_block_agrees_with_its_gradients(kind, packing):
    ours, theirs, names = blocks(kind)
    x = probe((2, LENGTH, 15), seed=3).requires_grad_()
    real = packing.segments.is_real
    direction = probe((2, LENGTH, 15)) * real[..., None]
    y, _ = ours(x, packing.segments, None, True)
    with Widened():
        expected = theirs(x, packing.seq_idx)
        (dx_expected,) = torch.autograd.grad((expected * direction).sum(), x, retain_graph=True)
        yours = gradients((expected * direction).sum(), theirs)
    (dx,) = torch.autograd.grad((y * direction).sum(), x, retain_graph=True)
    mine = gradients((y * direction).sum(), ours)
    assert distance(y[real], expected[real]) < EXACT
    assert distance(dx, dx_expected) < EXACT
    assert relative(mine, gather(names, yours, mine)) < EXACT


@torch.no_grad()
@pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)
@pytest.mark.parametrize("ssd_impl", judge.SSD_IMPLEMENTATIONS)
def test_each_of_its_implementations_agrees(ssd_impl, packing):
    ours, theirs, _ = blocks("gate first", ssd_impl)
    x, real = probe((2, LENGTH, 15), seed=3), packing.segments.is_real
    y, state = ours(x, packing.segments, None, True)
    with Widened():
        expected, final = theirs(x, packing.seq_idx, return_final_state=True)
    assert distance(y[real], expected[real]) < EXACT
    if bool(real.all()):  # otherwise its final state is that of the padding
        assert distance(state.ssm[packing.last_documents], final) < EXACT


@torch.no_grad()
def test_its_steps_through_a_boundary_agree_with_our_packed_forward():
    ours, theirs, _ = blocks("gate first")
    packing = PACKINGS["consecutive boundaries"]
    x, y = probe((2, LENGTH, 15), seed=3), []
    with Widened():
        state = theirs.allocate_inference_state(2)
        for t in range(LENGTH):
            out, state = theirs.step(x[:, t], state, packing.seq_idx[:, t])
            y.append(out)
    found, ours_state = ours(x, packing.segments, None, True)
    last = packing.last_documents
    assert distance(found, torch.stack(y, dim=1)) < EXACT
    assert distance(ours_state.ssm[last], state.ssm_state) < EXACT
    assert distance(ours_state.conv[last].mT, state.conv_state[..., 1:]) < EXACT


def drawn(seed: int) -> list[Tensor]:
    """x, dt, A, B, C with decays that reach over several chunks."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, LENGTH, 6, 5), (2, LENGTH, 6), (6,), (2, LENGTH, 3, 7), (2, LENGTH, 3, 7)]
    x, dt, A, B, C = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return [x, dt.exp() * 0.3, -A.exp() * 0.5, B, C]


@pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)
@pytest.mark.parametrize(("impl", "chunk_size"), [("naive", 8), ("chunk", 8), ("chunk", 5)])
@pytest.mark.parametrize("is_continued", [False, True])
def test_ssd_agrees_with_the_sequential_oracle(packing, impl, chunk_size, is_continued):
    """The oracle carries a state into the first document of a row only; so ours is zero else."""
    from niverel_mamba.torch_ops import ssd_sequential

    x, dt, A, B, C = operands = [v.requires_grad_() for v in drawn(seed=4)]
    entering = probe((2, 6, 5, 7), seed=5).requires_grad_()
    initial = torch.zeros(packing.segments.n_docs, 6, 5, 7, dtype=torch.float64)
    initial = initial.index_copy(0, torch.tensor(packing.first_documents), entering)
    y, state = ssd(
        *(x, dt, A, B, C),
        chunk_size=chunk_size,
        segments=packing.segments,
        initial_state=initial if is_continued else None,
        impl=impl,
    )
    expected, final = ssd_sequential(
        *(x, dt, A, B, C),
        dt_softplus=False,
        seq_idx=packing.seq_idx,
        initial_states=entering if is_continued else None,
    )
    assert state is not None
    real = packing.segments.is_real
    whole = [bool(row.all()) for row in real]
    ends = state[packing.last_documents][whole]
    assert distance(y[real], expected[real]) < EXACT
    assert not any(whole) or distance(ends, final[whole]) < EXACT
    wanted = [*operands, *([entering] if is_continued else [])]
    mine = torch.autograd.grad(_value(y, ends, real), wanted)
    yours = torch.autograd.grad(_value(expected, final[whole], real), wanted)
    for a, b in zip(mine, yours, strict=True):
        assert distance(a, b) < EXACT * float(b.abs().max())


def _value(y: Tensor, final: Tensor, real: Tensor) -> Tensor:
    """A scalar of outputs at real tokens and of the final states."""
    return (y[real] * probe(tuple(y[real].shape))).sum() + (
        final * probe(tuple(final.shape), seed=6)
    ).sum()


def test_a_boundary_that_is_ignored_does_not_pass():
    ours, theirs, _ = blocks("gate first")
    packing = PACKINGS["boundary on a chunk edge"]
    x = probe((2, LENGTH, 15), seed=3)
    with Widened(), torch.no_grad():
        expected = theirs(x, packing.seq_idx)
    assert distance(ours(x, None, None, False)[0], expected) > 1e-3
    shifted = Segments.from_lengths([(9, 15), (16, 8)])
    assert distance(ours(x, shifted, None, False)[0], expected) > 1e-3

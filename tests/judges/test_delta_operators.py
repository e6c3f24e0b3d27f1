"""The gated delta rule by itself, against the reference functions of three packages.

fla-core has a token loop and a chunked form of both decays, tree-recurrence one of packed documents
with their own initial states, transformers the functions of its models. The files of the first two
are loaded by path: importing those packages would ask for Triton, and for kernels from a network.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.ops.gated_delta import gated_delta
from braidlm.segments import Segments
from tests.judges.judging import Widened
from tests.ops.compare import assert_same, leaf
from tests.tolerances import Tolerance

FOLDER = Path(sys.prefix) / "judges"
EXACT = Tolerance(rtol=0, atol=1e-12)
"""Measured: outputs, states and gradients of unit scale 2e-14."""
H, G, D, DV = 4, 2, 6, 5


def judge(file: str) -> ModuleType:
    """A file of a judge, by its path inside the folder that `make install` fills."""
    if not (FOLDER / file).exists():
        pytest.skip(f"{file} is not there: `make install` gets it")
    spec = importlib.util.spec_from_file_location(file.replace("/", "_")[:-3], FOLDER / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)  # for einops
        spec.loader.exec_module(module)
    return module


def inputs(batch: int, length: int, decay: str) -> list[Tensor]:
    """q, k, v, g, beta; beta up to 2."""
    torch.manual_seed(length)
    q, k = F.normalize(torch.randn(2, batch, length, G, D, dtype=torch.float64), dim=-1)
    v = torch.randn(batch, length, H, DV, dtype=torch.float64)
    g = -F.softplus(torch.randn(batch, length, H, D, dtype=torch.float64) - 1)
    g = g if decay == "kda" else g[..., 0]
    beta = 2 * torch.rand(batch, length, H, dtype=torch.float64)
    return [x.clone().requires_grad_() for x in (q, k, v, g, beta)]


def repeated(args: list[Tensor]) -> dict[str, Tensor]:
    """The same with each key head repeated for its value heads, by the names of fla."""
    q, k = (x.repeat_interleave(H // G, dim=2) for x in args[:2])
    return dict(zip(("q", "k", "v", "g", "beta"), (q, k, *args[2:]), strict=True))


FLA = [
    ("fla/ops/gated_delta_rule/naive.py", "naive_recurrent_gated_delta_rule", "gated_deltanet"),
    ("fla/ops/gated_delta_rule/naive.py", "naive_chunk_gated_delta_rule", "gated_deltanet"),
    ("fla/ops/kda/naive.py", "naive_recurrent_kda", "kda"),
    ("fla/ops/kda/naive.py", "naive_chunk_kda", "kda"),
]


@pytest.mark.parametrize(("file", "name", "decay"), FLA)
@pytest.mark.parametrize("length", [8, 32])
def test_fla_agrees_with_every_gradient(file, name, decay, length):
    function, args = getattr(judge(file), name), inputs(2, length, decay)
    state = leaf(2, H, D, DV)
    chunk = {"chunk_size": 8} if "chunk" in name else {}

    def theirs():
        with Widened():
            return function(
                **repeated(args), scale=0.7, initial_state=state, output_final_state=True, **chunk
            )

    def ours():
        return gated_delta(*args, scale=0.7, initial_state=state, chunk_size=16)

    assert_same(ours, theirs, [*args, state], EXACT)


@pytest.mark.parametrize("decay", ["gated_deltanet", "kda"])
def test_packed_documents_agree_with_tree_recurrence(decay):
    reference = judge("tree_recurrence/reference.py")
    function = reference.chunk_kda if decay == "kda" else reference.chunk_gated_delta_rule
    lengths = (1, 2, 8, 9, 17, 3)
    args, state = inputs(1, sum(lengths), decay), leaf(len(lengths), H, D, DV)
    segments = Segments.from_lengths([lengths])

    def theirs():
        names = dict(zip(("q", "k", "v", "g", "beta"), args, strict=True))
        return function(
            **names, initial_state=state, output_final_state=True, cu_seqlens=segments.cu_seqlens
        )

    def ours():
        return gated_delta(*args, segments=segments, initial_state=state, chunk_size=8)

    assert_same(ours, theirs, [*args, state], EXACT)


TRANSFORMERS = [
    ("qwen3_next", "torch_chunk_gated_delta_rule", "gated_deltanet"),
    ("qwen3_next", "torch_recurrent_gated_delta_rule", "gated_deltanet"),
    ("kimi_linear", "chunk_kimi_delta_attention", "kda"),
    ("kimi_linear", "recurrent_kimi_delta_attention", "kda"),
]


@pytest.mark.parametrize(("family", "name", "decay"), TRANSFORMERS)
@pytest.mark.parametrize("length", [5, 64, 130])
def test_transformers_agrees_with_every_gradient(family, name, decay, length):
    transformers = pytest.importorskip("transformers", minversion="5.15.1")
    module = getattr(getattr(transformers.models, family), f"modeling_{family}")
    function: Callable[..., Any] = getattr(module, name)
    args, state = inputs(1, length, decay), leaf(1, H, D, DV)

    def theirs():
        q, k, v, g, beta = repeated(args).values()
        with Widened():
            return function(q, k, v, g, beta, initial_state=state, output_final_state=True)

    assert_same(lambda: gated_delta(*args, initial_state=state), theirs, [*args, state], EXACT)

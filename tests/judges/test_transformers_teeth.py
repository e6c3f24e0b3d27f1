"""The comparison with transformers fails where it should: wrong weights, norms and maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from braidlm.ops.norm import gated_rms_norm
from tests.judges.judging import Widened
from tests.judges.transformers_pairs import (
    Pair,
    differences,
    pair,
    tokens,
)


def _mix(p: Pair, block: int) -> Any:
    return p.ours.get_submodule(f"blocks.{block}.mix")


def _swap_rows(tensor: Tensor, first: slice, second: slice) -> None:
    with torch.no_grad():
        kept = tensor[first].clone()
        tensor[first] = tensor[second]
        tensor[second] = kept


def _swap_b_and_c(p: Pair) -> None:
    mixer = _mix(p, 0).mixer
    b, c = mixer.conv_widths[0] + mixer.widths[0], mixer.conv_widths[1]
    _swap_rows(mixer.in_proj.weight, slice(b, b + c), slice(b + c, b + 2 * c))


def _swap_gate_and_up(p: Pair) -> None:
    _swap_rows(_mix(p, 1).mixer.in_proj.weight, slice(0, 27), slice(27, 54))


def _swap_two_query_heads(p: Pair) -> None:
    """Heads of different groups; the output projection follows, so that only grouping can tell."""
    mix = _mix(p, 0)
    _swap_rows(mix.mixer.in_proj.weight, slice(10, 20), slice(20, 30))
    _swap_rows(mix.out_proj.weight.T, slice(10, 20), slice(20, 30))


def _swap_output_columns(p: Pair) -> None:
    out = _mix(p, 0).combine.out_projs[0].weight
    _swap_rows(out.T, slice(0, 5), slice(5, 10))


def _norm_in_one_group(p: Pair) -> None:
    """The whole width normed together, as transformers itself once did."""
    mixer = _mix(p, 0).mixer

    def gate(y: Tensor, z: Tensor) -> Tensor:
        return gated_rms_norm(y, z, mixer.norm_weight, mixer.norm_eps)

    mixer._gate = gate


def _norm_after_gate(p: Pair) -> None:
    _mix(p, 0).branches[0].norm_first = False


def _other_frequencies(p: Pair) -> None:
    _mix(p, 0).mixer.inv_freq.mul_(1.001)


@pytest.mark.parametrize(
    ("case", "spoil"),
    [
        ("mamba2", _swap_b_and_c),
        ("mamba2", _norm_in_one_group),
        ("llama", _swap_gate_and_up),
        ("llama", _swap_two_query_heads),
        ("llama", _other_frequencies),
        ("falcon_h1 norm first", _swap_output_columns),
        ("falcon_h1 norm first", _norm_after_gate),
    ],
)
def test_the_comparison_has_teeth(case, spoil):
    """A map or a model that is wrong in one place must not pass."""
    p = pair(case)
    spoil(p)
    with Widened():
        logits, grads = differences(p, tokens(2, 29))
    assert logits > 1e-4
    assert grads > 1e-4

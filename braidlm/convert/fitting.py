"""How loud a new mixer begins, and which weights a stage trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from braidlm.convert.copying import new_parts
from braidlm.convert.objective import voices, watched
from braidlm.convert.target import Change
from braidlm.mixers.attention import Attention
from braidlm.model import HybridLM
from braidlm.segments import Segments

Row = dict[str, Any]


@torch.no_grad()
def fit_outputs(
    student: HybridLM,
    teacher: HybridLM,
    changes: Sequence[Change],
    tokens: Tensor,
    segments: Segments | None,
) -> list[Row]:
    """Scale each new output projection so that its error on some tokens is least.

    A copied mixer is normed where attention averages, so that it begins too loud. With v what it
    gives and y what the attention gives, over all tokens and channels::

        W_o <- s W_o,  s = max(<v, y> / <v, v>, |y| / (20 |v|)),  error = |s v - y|^2 / |y|^2

    The second bound keeps what was copied where it says nothing yet. A new attention stays as it
    is.

    Args:
        student: with the weights copied.
        teacher: on the same device.
        changes: where they differ.
        tokens: (B, T) int64.
        segments: where documents lie in them.

    Returns:
        For each new mixer `layer`, `branch`, `scale` (s) and `error`.
    """
    rows: list[Row] = []

    def fit(change: Change, x: Tensor, where: Segments | None, y: Tensor) -> None:
        y = y.float()
        found = voices(student, change, x, where)
        for branch, voice in zip(change.new, found, strict=True):
            v = voice.float()
            mixer, out = new_parts(student.blocks[change.index].mix, branch)  # pyright: ignore
            common, own, whole = (v * y).sum(), v.square().sum(), y.square().sum()
            own = own.clamp_min(1e-20)
            scale = torch.maximum(common / own, (whole / own).sqrt() / 20)
            if isinstance(mixer, Attention):
                scale = torch.ones_like(scale)
            out.weight.mul_(scale)
            if out.bias is not None:
                out.bias.mul_(scale)
            error = (scale * v - y).square().sum() / whole.clamp_min(1e-20)
            place = {"layer": change.index, "branch": branch if change.kept is not None else None}
            rows.append(place | {"scale": float(scale), "error": float(error)})

    with watched(teacher, changes, fit):
        teacher(tokens, segments, return_state=False)
    return rows


def train_only(student: HybridLM, changes: Sequence[Change], trained: str) -> None:
    """Let gradients reach what a stage trains and nothing else.

    Args:
        student: its parameters' `requires_grad` are set.
        changes: where it is not the teacher.
        trained: as `StageConfig.trained` has it.
    """
    names = tuple(_names(student, changes, trained))
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name.startswith(names))


def _names(student: HybridLM, changes: Sequence[Change], trained: str) -> list[str]:
    """Return the beginnings of the names of what is trained."""
    if trained == "all":
        return [""]
    found = []
    for index, branch, kept in ((c.index, b, c.kept) for c in changes for b in c.new):
        mix = f"blocks.{index}.mix."
        if kept is None:
            found.append(mix)
            continue
        parts = (f"branches.{branch}.", f"combine.out_projs.{branch}.", f"scales.{branch}")
        found += [mix + part for part in parts]
    if trained == "mixers":
        for s in student.spec.sublayers:
            if any(branch.role != "channel" for branch in s.branches):
                found.append(f"blocks.{s.index}.")
    return found

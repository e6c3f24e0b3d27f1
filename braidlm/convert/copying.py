"""Stage 0: the teacher's weights in the student, as far as shapes allow.

Attention is a recurrence's dual form with other weights on the past, so that its matrices have a
place in the new mixer, head by head; keys and values that several queries share are repeated::

    Mamba-2                 C <- W_q      B <- W_k      x <- W_v
    Gated DeltaNet, KDA     q <- W_q      k <- W_k      v <- W_v
    both                    output projection <- W_o
                            convolution: its newest tap 1, the others 0, no bias
    gate z                  with a bias (Mamba-2): rows 0, bias 1.2785, so that SiLU(z) = 1
                            without: z <- (W_o^T + W_v) / 2 (Priming)

What has no counterpart (step sizes, decays, strengths, norms) is drawn as for a new model; so is a
part whose shape is another one. Positions are not rotated and SiLU stays, so the function is not
the teacher's; a new attention, such as one with a window, gets every weight as it is.

Source: Priming (arXiv 2605.08301), stage 0; duality: Dao and Gu 2024 (arXiv 2405.21060).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from braidlm.arch import Sublayer
from braidlm.arch.mixers import AttentionConfig
from braidlm.blocks import Single
from braidlm.convert.target import Change
from braidlm.mixers.attention import Attention
from braidlm.mixers.delta import DeltaMixer
from braidlm.mixers.mamba2 import Mamba2
from braidlm.model import HybridLM
from braidlm.parallel import Parallel

Row = dict[str, Any]
Matrices = dict[str, Tensor]
"""Parts of an attention by name: q, k, v as rows of the input projection, and z."""
NAMES = {
    Mamba2: {"C": "q", "B": "k", "x": "v", "z": "z"},
    DeltaMixer: {"q": "q", "k": "k", "v": "v", "z": "z"},
}
"""Which part of a new mixer's projection is made of which of the attention's."""
OPEN = 1.2784645
"""SiLU of it is 1."""


@torch.no_grad()
def copy_weights(
    student: HybridLM, teacher: HybridLM, changes: Sequence[Change], share: float
) -> list[Row]:
    """Put the teacher's weights into a newly drawn student.

    Args:
        student: of `target.Target.spec`.
        teacher: of the model that this was made from.
        changes: where they differ.
        share: factor of new branches beside an attention.

    Returns:
        A row for each new mixer: layer, letter, kind, and what was copied into which part.
    """
    changed = tuple(f"blocks.{change.index}.mix." for change in changes)
    theirs = teacher.state_dict()
    for name, tensor in student.state_dict().items():
        if not name.startswith(changed):
            tensor.copy_(theirs[name])
    rows = []
    for change in changes:
        given: Any = teacher.blocks[change.index].mix
        taken: Any = student.blocks[change.index].mix
        s = teacher.spec.sublayers[change.index]
        assert isinstance(given, Single)
        assert given.out_proj is not None
        if change.kept is not None:
            assert isinstance(taken, Parallel)
            _keep(taken, given, change, share)
        for branch in change.new:
            mixer, out = new_parts(taken, branch)
            found = _fill(mixer, given, s) + _copy(out, given.out_proj, "out <- o")
            rows.append(_about(student.spec.sublayers[change.index], branch, found))
    return rows


def new_parts(mix: nn.Module, branch: int) -> tuple[nn.Module, nn.Linear]:
    """Return a mixer and its output projection, alone or as a branch."""
    if isinstance(mix, Single):
        assert mix.out_proj is not None
        return mix.mixer, mix.out_proj
    assert isinstance(mix, Parallel)
    return mix.branches[branch], mix.combine.out_projs[branch]  # pyright: ignore


def _about(s: Sublayer, branch: int, copied: list[str]) -> Row:
    config: Any = s.branches[branch]
    place = {"layer": s.index, "branch": branch if s.is_parallel else None}
    return place | {
        "letter": s.letters[branch],
        "kind": config.kind,
        "copied": ", ".join(copied) or "nothing",
    }


def _keep(mix: Parallel, given: Single, change: Change, share: float) -> None:
    """Give a branch all that the attention has, and set the factors of both."""
    kept, out = new_parts(mix, change.kept or 0)
    kept.load_state_dict(given.mixer.state_dict())
    assert given.out_proj is not None
    out.load_state_dict(given.out_proj.state_dict())
    for branch, scale in enumerate(mix.scales):
        scale.fill_(1 - share if branch == change.kept else share / len(change.new))


def _fill(mixer: nn.Module, given: Single, s: Sublayer) -> list[str]:
    """Copy into one new mixer; return what went where."""
    config = s.branches[0]
    if isinstance(mixer, Attention):
        own, theirs = mixer.state_dict(), given.mixer.state_dict()
        same = [n for n in own if n in theirs and own[n].shape == theirs[n].shape]
        for name in same:
            own[name].copy_(theirs[name])
        return same
    names = next((names for kind, names in NAMES.items() if isinstance(mixer, kind)), None)
    if names is None:
        return []
    assert isinstance(config, AttentionConfig)
    assert isinstance(mixer, Mamba2 | DeltaMixer)
    found = _fill_rows(mixer, _matrices(given, config), names)
    mixer.conv_weight.zero_()[:, -1] = 1.0
    if mixer.conv_bias is not None:
        mixer.conv_bias.zero_()
    return found


def _fill_rows(mixer: nn.Module, parts: Matrices, names: Mapping[str, str]) -> list[str]:
    """Copy parts of the attention over rows of the new projection, where they are as many."""
    proj: Any = mixer.in_proj
    sizes = mixer.row_parts()["in_proj.weight"]  # pyright: ignore[reportCallIssue]
    is_mamba = isinstance(mixer, Mamba2)
    order: tuple[str, ...] = ("z", "x", "B", "C", "dt") if is_mamba else ("q", "k", "v", "z")
    rows: Matrices = dict(zip(order, proj.weight.split(sizes), strict=False))
    found = []
    for name, source in names.items():
        if rows[name].shape == parts[source].shape:
            rows[name].copy_(parts[source])
            found.append(f"{name} <- {'(o^T + v) / 2' if source == 'z' else source}")
    if proj.bias is None:
        return found
    biases: Matrices = dict(zip(order, proj.bias.split(sizes), strict=False))
    for name, source in names.items():
        bias = parts.get(f"{source} bias")
        if bias is not None and bias.shape == biases[name].shape:
            biases[name].copy_(bias)
    rows["z"].zero_()
    biases["z"].fill_(OPEN)
    return [*(told for told in found if not told.startswith("z ")), "z <- 1"]


def _matrices(given: Single, config: AttentionConfig) -> Matrices:
    """Return q, k, v of an attention with a head for each query head, and z."""
    proj: Any = given.mixer.in_proj  # pyright: ignore[reportAttributeAccessIssue]
    sizes = list(given.mixer.row_parts()["in_proj.weight"])  # pyright: ignore[reportCallIssue]
    n_shared = config.n_heads // config.n_kv_heads
    found: Matrices = {}
    for kind, whole in (("", proj.weight), (" bias", proj.bias)):
        if whole is None:
            continue
        q, k, v, *_ = whole.split(sizes)
        found[f"q{kind}"] = q
        for name, part in (("k", k), ("v", v)):
            heads = part.unflatten(0, (config.n_kv_heads, -1))
            found[f"{name}{kind}"] = heads.repeat_interleave(n_shared, dim=0).flatten(0, 1)
    assert given.out_proj is not None
    found["z"] = (given.out_proj.weight.t() + found["v"]) / 2
    return found


def _copy(own: nn.Linear, given: nn.Linear, told: str) -> list[str]:
    """Copy one matrix and its bias if the shapes are the same."""
    if own.weight.shape != given.weight.shape:
        return []
    own.weight.copy_(given.weight)
    if own.bias is not None and given.bias is not None:
        own.bias.copy_(given.bias)
    return [told]

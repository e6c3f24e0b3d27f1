"""Models with something taken out while inside: heads, branches, layers, the sight of attention.

Every cut is a hook or an attribute of an instance; weights stay as they are, and leaving a cut
restores the model. A cut model computes what no training has ever asked of it: what fails then
need not have been what mattered before. Compare with cuts of as much elsewhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from braidlm.blocks import Block, Single, Stream
from braidlm.combine import CrossAttention
from braidlm.mixers.attention import Attention
from braidlm.model import HybridLM
from braidlm.parallel import Parallel

Change = Callable[[Tensor], Tensor]
"""Of a mixer's u, or a branch's v, (B, T, width)."""


@contextlib.contextmanager
def heads_cut(model: HybridLM, heads: Mapping[str, Collection[int]]) -> Iterator[None]:
    """Zero heads' slices of what a mixer gives, before its output projection.

    Args:
        model: any.
        heads: head numbers by place, such as {"2": [0, 3], "4.1": [1]}. The norm of a branch comes
            before the cut, so that the other heads stay as they are.
    """
    with _changed(model, {place: _without(own, model, place) for place, own in heads.items()}):
        yield


@contextlib.contextmanager
def branches_cut(model: HybridLM, places: Collection[str]) -> Iterator[None]:
    """Zero what whole mixers at places such as "2" or "4.1" give, before the output projection."""
    with _changed(model, dict.fromkeys(places, torch.zeros_like)):
        yield


@contextlib.contextmanager
def layers_skipped(model: HybridLM, layers: Collection[int]) -> Iterator[None]:
    """Let the stream pass sublayers by, as if they were not there. Their states are still made."""

    def skip(block: Any, given: tuple[Any, ...], result: tuple[Stream, Any]) -> tuple[Stream, Any]:
        before, (after, state) = given[0].settled(), result
        return after._replace(hidden=before.hidden, handed=None, due=None), state

    hooks = [model.blocks[i].register_forward_hook(skip) for i in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def sight_limited(model: HybridLM, window: int) -> Iterator[None]:
    """Hide from every attention what is `window` tokens or more behind; narrower windows stay.

    A latent attention knows no windows and stays as it is. Only for calls without a state.
    """
    touched: list[tuple[Any, int | None]] = []
    for module in _limitable(model):
        n = window * getattr(module, "n_streams", 1)
        touched.append((module, module.window))
        module.window = n if module.window is None else min(n, module.window)
    try:
        yield
    finally:
        for module, before in touched:
            module.window = before


def sees_far(model: HybridLM) -> list[int]:
    """Return the sublayers whose attention `sight_limited` limits."""
    return [i for i, block in enumerate(model.blocks) if _limitable(block)]


def _limitable(module: nn.Module) -> list[Attention | CrossAttention]:
    return [m for m in module.modules() if isinstance(m, Attention | CrossAttention)]


@contextlib.contextmanager
def jolted(
    model: HybridLM,
    layers: Collection[int],
    cut: Callable[[], contextlib.AbstractContextManager[None]],
    rng: torch.Generator,
) -> Iterator[None]:
    """Move what sublayers give as far as a cut would, at every token, in a random direction.

    Args:
        model: any. Only for calls without a state.
        layers: the sublayers that the cut changes.
        cut: makes the cut; what it changes is measured on what each sublayer reads in the call.
        rng: on the CPU.
    """
    is_cut = [False]

    def jolt(block: Any, given: tuple[Any, ...], result: tuple[Stream, Any]) -> Any:
        if is_cut[0]:
            return None
        is_cut[0] = True
        try:
            with cut():
                harmed, _ = block(*given)
        finally:
            is_cut[0] = False
        (after, state), harmed = result, harmed.settled()
        after = after.settled()
        hidden = _moved(after.hidden, harmed.hidden, rng)
        return after._replace(hidden=hidden, handed=_moved(after.handed, harmed.handed, rng)), state

    hooks = [model.blocks[i].register_forward_hook(jolt) for i in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _moved(x: Any, goal: Tensor | None, rng: torch.Generator) -> Any:
    """x (B, T, D), each token moved as far as from x to `goal` (None: zeros), in any direction."""
    if x is None:
        return None
    drawn = torch.randn(x.shape, generator=rng, dtype=torch.float64).to(x.device)
    far = (x if goal is None else x - goal).double().norm(dim=-1, keepdim=True)
    return (x + far * drawn / drawn.norm(dim=-1, keepdim=True)).to(x.dtype)


def n_heads_of(model: HybridLM, place: str) -> int:
    """Return the heads of the mixer at a place."""
    return _mixer(model, place).n_heads  # type: ignore[return-value]


def _mixer(model: HybridLM, place: str) -> nn.Module:
    layer, branch = _split(place)
    mix = model.blocks[layer].mix
    return mix.branches[branch] if isinstance(mix, Parallel) else mix.mixer  # type: ignore


def _split(place: str) -> tuple[int, int]:
    layer, _, branch = place.partition(".")
    return int(layer), int(branch or 0)


def _without(heads: Collection[int], model: HybridLM, place: str) -> Change:
    n_heads = n_heads_of(model, place)
    wrong = [head for head in heads if not 0 <= head < n_heads]
    if wrong:
        raise ValueError(f"place {place} has no head {wrong[0]}: it has 0 to {n_heads - 1}")
    kept = torch.ones(n_heads)
    kept[list(heads)] = 0

    def change(u: Tensor) -> Tensor:
        return (u.unflatten(-1, (n_heads, -1)) * kept.to(u)[:, None]).flatten(-2)

    return change


@contextlib.contextmanager
def _changed(model: HybridLM, changes: Mapping[str, Change]) -> Iterator[None]:
    """Apply changes by place. Uses of one shared block are told apart by which block is running."""
    running = [0]
    hooks: list[Any] = []

    def note(index: int) -> Callable[..., None]:
        return lambda block, given: running.__setitem__(0, index)

    for index, block in enumerate(model.blocks):
        hooks.append(block.register_forward_pre_hook(note(index)))
    for place, change in changes.items():
        hooks.append(_hook(model.blocks, place, change, running))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _hook(blocks: nn.ModuleList, place: str, change: Change, running: list[int]) -> Any:
    layer, branch = _split(place)
    block = blocks[layer]
    assert isinstance(block, Block)
    if isinstance(block.mix, Single):
        projection = block.mix.out_proj
        if projection is None:
            raise ValueError(f"place {place}: only mixers with heads can be cut")

        def before(module: nn.Module, given: tuple[Tensor]) -> tuple[Tensor] | None:
            return (change(given[0]),) if running[0] == layer else None

        return projection.register_forward_pre_hook(before)
    assert isinstance(block.mix, Parallel)

    def after(module: nn.Module, given: tuple[Tensor], v: Tensor) -> Tensor | None:
        return change(v) if running[0] == layer else None

    return block.mix.norms[branch].register_forward_hook(after)

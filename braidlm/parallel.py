"""The parallel sublayer: several mixers on one input, fused into one output.

Branch i yields u_i; then v_i = s_i * Norm_i(u_i), and a combining module with the output
projection(s) makes the sublayer's output. See `docs/fusion.md` for the space of fusions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from braidlm import combine, mixers
from braidlm.arch import Spec, Sublayer
from braidlm.beside import side_by_side
from braidlm.combine import Weighted
from braidlm.mixers.keys import shares_keys
from braidlm.mixers.norm import RMSNorm
from braidlm.mixers.room import reserve
from braidlm.mixers.shorten import shorten
from braidlm.mixers.telemetry import real, rms, telemetry
from braidlm.ops.attention import KVCache, Lent
from braidlm.ops.dispatch import state_dtype
from braidlm.ops.norm import rms_norm
from braidlm.ops.rows import Ending, Read, product
from braidlm.ops.rows.naive import normed
from braidlm.ops.scaled import scaled
from braidlm.segments import Segments


class ParallelState(NamedTuple):
    """Memory of a parallel sublayer."""

    branches: tuple[Any, ...]
    """The state of each branch."""
    fusion: KVCache | None
    """The cache of the fusion's own attention."""


class Parallel(nn.Module):
    """Branches, their norms and scales, and the module that combines them."""

    overlaps = False
    """Whether branches run side by side on streams of a GPU; see `overlapped`."""

    def __init__(self, sublayer: Sublayer, spec: Spec) -> None:
        super().__init__()
        fusion = sublayer.fusion
        assert fusion is not None
        widths = [b.width for b in sublayer.branches]
        width = sublayer.input_width(spec.d_model)
        self.branches = nn.ModuleList(
            mixers.build(b, width, spec.norm_eps, spec.norm_offset, spec.lends_as(letter))
            for letter, b in zip(sublayer.letters, sublayer.branches, strict=True)
        )
        self.shares_keys = any(shares_keys(branch) for branch in self.branches)
        self.in_multipliers = tuple(b.in_multiplier for b in sublayer.branches)
        are_first = all(getattr(branch, "projects_first", False) for branch in self.branches)
        # A fusion reads x by a product, too, or not at all.
        self.projects_first = are_first and all(m == 1.0 for m in self.in_multipliers)
        groups = [b.n_norm_groups if fusion.norm == "group" else 1 for b in sublayer.branches]
        self.has_norm = has_norm = fusion.norm != "none"
        self.norms = nn.ModuleList(
            RMSNorm(w, spec.norm_eps, g, spec.norm_offset) if has_norm else nn.Identity()
            for w, g in zip(widths, groups, strict=True)
        )
        n_scales = {"none": [], "learned": widths, "scalar": [1]}[fusion.scale]
        self.scales = nn.ParameterList(torch.empty(n) for n in n_scales)
        self.combine = combine.build(sublayer, widths, spec.d_model)

    def reset_parameters(self, std: float, out_std: float) -> None:
        """Draw the initial weights of every part."""
        for branch in self.branches:
            branch.reset_parameters(std)  # pyright: ignore[reportCallIssue]
        for norm in self.norms:
            if isinstance(norm, RMSNorm):
                norm.reset_parameters()
        for scale in self.scales:
            nn.init.ones_(scale)
        self.combine.reset_parameters(std, out_std)

    def forward(
        self,
        x: Tensor,
        segments: Segments | None,
        state: ParallelState | None,
        return_state: bool,
        keys: dict[str, Lent] | None = None,
    ) -> tuple[Tensor, ParallelState | None]:
        """Map x (B, T, d_model) to the sublayer's output of the same shape.

        `keys` is what is lent in this call, by letter; branches that lend add to it.
        """
        v, after = self._outputs(x, segments, state, return_state, keys)
        cache = state.fusion if state is not None else None
        y, cache = self.combine(v, x, segments, cache, return_state)
        return y, ParallelState(tuple(after), cache) if return_state else None

    def _outputs(
        self,
        x: Tensor,
        segments: Segments | None,
        state: ParallelState | None,
        return_state: bool,
        keys: dict[str, Lent] | None = None,
    ) -> tuple[list[Tensor], list[Any]]:
        """What is combined: v_i (B, T, w_i), and the states of the branches."""
        u, after = self._branches(x, segments, state, return_state, keys)
        return self.voiced(u), after

    def _branches(
        self,
        x: Tensor,
        segments: Segments | None,
        state: ParallelState | None,
        return_state: bool,
        keys: dict[str, Lent] | None,
    ) -> tuple[list[Tensor], list[Any]]:
        """What the branches give: u_i (B, T, w_i), and their states."""
        before = state.branches if state is not None else (None,) * len(self.branches)
        calls = []
        for branch, factor, old in zip(self.branches, self.in_multipliers, before, strict=True):
            asked = (keys,) if shares_keys(branch) else ()
            calls.append(partial(branch, scaled(x, factor), segments, old, return_state, *asked))
        found = self._run(calls, ([call.args[0] for call in calls], before))
        outputs, after = zip(*found, strict=True)
        return list(outputs), list(after)

    def reads_rows(self, is_step: bool, state: ParallelState | None) -> bool:
        """Whether `from_rows` can go on from this state; `is_step`: one token of each document."""
        if state is None or self.shares_keys or any(m != 1.0 for m in self.in_multipliers):
            return False
        asked = [getattr(branch, "reads_rows", None) for branch in self.branches]
        pairs = zip(asked, state.branches, strict=True)
        return all(ask is not None and ask(is_step, old) for ask, old in pairs)

    def from_rows(
        self, read: Read, state: ParallelState, factor: float, may_owe: bool
    ) -> tuple[Tensor, ParallelState]:
        """Add the sublayer's output for each row, times `factor`, to what it reads."""
        del may_owe
        pairs = zip(self.branches, state.branches, strict=True)
        calls = [partial(branch.from_rows, read, old) for branch, old in pairs]  # pyright: ignore
        u, after = zip(*self._run(calls, (read, state.branches)), strict=True)
        hidden, cache = read.x, state.fusion
        summands = self.combine.summands if isinstance(self.combine, Weighted) else []
        if summands:
            for one, (proj, share) in zip(self._voiced_rows(u), summands, strict=True):
                ending = Ending(residual=hidden, factor=factor * share)
                hidden = product(one, proj.weight, proj.bias, ending, dtype=hidden.dtype)
        else:
            v = self.voiced([_value(one).to(hidden.dtype) for one in u])
            rows = [one[:, None] for one in v]
            y, cache = self.combine(rows, _value(read)[:, None], None, cache, True)
            hidden = hidden + scaled(y[:, 0], factor)
        return hidden, ParallelState(after, cache)

    def _voiced_rows(self, u: Sequence[Read]) -> Sequence[Read]:
        """`voiced` of rows; a norm over all channels is left to the product behind it."""
        if not self.has_norm and not len(self.scales):
            return u
        if len(self.scales) or any(norm.n_groups > 1 for norm in self.norms):  # pyright: ignore
            return [Read(one) for one in self.voiced([_value(one) for one in u])]
        pairs = zip(u, self.norms, strict=True)
        return [Read(_value(one), True, norm.weight, norm.offset, norm.eps) for one, norm in pairs]  # pyright: ignore

    def _run(self, calls: Sequence[Callable[[], Any]], inputs: Any) -> list[Any]:
        if self.overlaps and not self.shares_keys and not torch.compiler.is_compiling():
            return side_by_side(inputs, calls)
        return [call() for call in calls]

    def voiced(self, u: list[Tensor]) -> list[Tensor]:
        """Norm and scale u_i (B, T, w_i) to v_i of the same shapes."""
        v = [norm(one) for norm, one in zip(self.norms, u, strict=True)]
        for place, scale in enumerate(self.scales, len(v) - len(self.scales)):
            v[place] = v[place] * scale.to(v[place].dtype)
        return v

    def given(
        self, x: Tensor, segments: Segments | None, keys: dict[str, Lent] | None = None
    ) -> list[Tensor]:
        """Return u_i (B, T, w_i) of documents that begin with x (B, T, d_model)."""
        return self._branches(x, segments, None, False, keys)[0]

    def reserve(self, state: ParallelState, n_tokens: int) -> ParallelState:
        """Return a state with room for `n_tokens` more per document."""
        pairs = zip(self.branches, state.branches, strict=True)
        branches = tuple(reserve(branch, old, n_tokens) for branch, old in pairs)
        return ParallelState(branches, reserve(self.combine, state.fusion, n_tokens))

    def shorten(self, state: ParallelState, n_tokens: int) -> ParallelState:
        """Return a state whose branches hold the last `n_tokens` of each document at most.

        Raises:
            ValueError: the fusion has a cache of its own, which cannot be cut.
        """
        if state.fusion is not None:
            raise ValueError("a fusion with a cache of its own keeps all of it")
        pairs = zip(self.branches, state.branches, strict=True)
        return ParallelState(tuple(shorten(branch, old, n_tokens) for branch, old in pairs), None)

    def telemetry(
        self, x: Tensor, segments: Segments | None, keys: dict[str, Lent] | None = None
    ) -> dict[str, Tensor]:
        """Tell what the branches tell, and each branch's contribution as `rms`.

        It is the rms of what the output loses when v_i is zero: of W_i v_i where outputs are added.
        """
        v, _ = self._outputs(x, segments, None, False, keys)
        found: dict[str, Tensor] = {}
        rows = zip(self.branches, self.in_multipliers, self.lost(v, x, segments), strict=True)
        for i, (branch, factor, lost) in enumerate(rows):
            told = telemetry(branch, scaled(x, factor), segments)
            told |= {"rms": rms(real(lost, segments))}
            found |= {f"branches.{i}.{name}": value for name, value in told.items()}
        return found

    def lost(self, v: list[Tensor], x: Tensor, segments: Segments | None) -> list[Tensor]:
        """Return what the output loses when v_i (B, T, w_i) is zero, for each: (B, T, d_model).

        It is W_i v_i where the branches' outputs are added.
        """
        whole, _ = self.combine(v, x, segments, None, False)
        found = []
        for i in range(len(v)):
            silenced = [u if j != i else torch.zeros_like(u) for j, u in enumerate(v)]
            found.append(whole - self.combine(silenced, x, segments, None, False)[0])
        return found


def _value(read: Read) -> Tensor:
    """What a product makes of its rows before it multiplies them, (n, K)."""
    if read.squares is not None:
        return normed(read, state_dtype(read.x.dtype))
    if not read.has_norm:
        return read.x
    return rms_norm(read.x, read.scale, read.eps, offset=read.offset)


@contextlib.contextmanager
def overlapped(model: nn.Module, is_on: bool = True) -> Iterator[None]:
    """While inside, the branches of every parallel sublayer run side by side on a GPU.

    What they give is the same. Branches that lend keys to each other go on one after the other.
    """
    found = [m for m in model.modules() if isinstance(m, Parallel)] if is_on else []
    before = [module.overlaps for module in found]
    for module in found:
        module.overlaps = True
    try:
        yield
    finally:
        for module, was in zip(found, before, strict=True):
            module.overlaps = was

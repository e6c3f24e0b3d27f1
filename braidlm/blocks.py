"""The residual sublayer: hidden + mix(norm(hidden)), or hidden + norm(mix(hidden))."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from braidlm import mixers
from braidlm.arch import Spec, Sublayer
from braidlm.mixers.norm import RMSNorm
from braidlm.mixers.room import reserve
from braidlm.mixers.telemetry import telemetry
from braidlm.ops.scaled import scaled
from braidlm.parallel import Parallel
from braidlm.segments import Segments


class Stream(NamedTuple):
    """What flows between sublayers."""

    hidden: Tensor
    """(B, T, d_model): the residual stream."""
    embedding: Tensor
    """(B, T, d_model): the embedded tokens, for sublayers that read them again."""
    aux: dict[str, Tensor] | None = None
    """What the router of the sublayer that made this tells, {} without one; None: nobody asks."""


class Single(nn.Module):
    """One mixer and its output projection, if it has none of its own."""

    def __init__(self, sublayer: Sublayer, spec: Spec) -> None:
        super().__init__()
        (config,) = sublayer.branches
        self.factors = (config.in_multiplier, config.out_multiplier)
        self.mixer = mixers.build(config, spec.d_model, spec.norm_eps, spec.norm_offset)
        self.out_proj = None
        if not config.has_own_output:
            self.out_proj = nn.Linear(config.width, spec.d_model, bias=config.out_bias)

    def reset_parameters(self, std: float, out_std: float) -> None:
        """Draw the initial weights."""
        if self.out_proj is None:
            self.mixer.reset_parameters(std, out_std)  # pyright: ignore[reportCallIssue]
            return
        self.mixer.reset_parameters(std)
        nn.init.normal_(self.out_proj.weight, std=out_std)
        if self.out_proj.bias is not None:
            nn.init.zeros_(self.out_proj.bias)

    def reserve(self, state: Any, n_tokens: int) -> Any:
        """Return the mixer's state with room for `n_tokens` more per document."""
        return reserve(self.mixer, state, n_tokens)

    def telemetry(self, x: Tensor, segments: Segments | None) -> dict[str, Tensor]:
        """Tell what the mixer tells."""
        return telemetry(self.mixer, scaled(x, self.factors[0]), segments)

    def forward(
        self,
        x: Tensor,
        segments: Segments | None,
        state: Any,
        return_state: bool,
        aux: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, Any]:
        """Map x (B, T, d_model) to the sublayer's output of the same shape.

        `aux` is filled by a mixer with a router, and given only to such a one.
        """
        asked = () if aux is None else (aux,)
        x = scaled(x, self.factors[0])
        u, state = self.mixer(x, segments, state, return_state, *asked)
        return scaled(u if self.out_proj is None else self.out_proj(u), self.factors[1]), state


class Block(nn.Module):
    """One residual sublayer."""

    def __init__(self, sublayer: Sublayer, spec: Spec) -> None:
        super().__init__()
        self.is_post_normed = sublayer.wiring.norm_position == "post"
        self.residual_multiplier = spec.residual_multiplier
        self.norm = RMSNorm(spec.d_model, spec.norm_eps, offset=spec.norm_offset)
        self.mix = (Parallel if sublayer.is_parallel else Single)(sublayer, spec)
        self.has_router = not sublayer.is_parallel and isinstance(self.mix.mixer, mixers.MoE)

    def reset_parameters(self, std: float, out_std: float) -> None:
        """Draw the initial weights."""
        self.norm.reset_parameters()
        self.mix.reset_parameters(std, out_std)

    def reserve(self, state: Any, n_tokens: int) -> Any:
        """Return the sublayer's state with room for `n_tokens` more per document."""
        return reserve(self.mix, state, n_tokens)

    def telemetry(self, stream: Stream, segments: Segments | None) -> dict[str, Tensor]:
        """Tell what the sublayer tells of this stream."""
        return telemetry(self.mix, self._read(stream), segments)

    def forward(
        self, stream: Stream, segments: Segments | None, state: Any, return_state: bool
    ) -> tuple[Stream, Any]:
        """Return the stream after this sublayer and the sublayer's new state."""
        aux: dict[str, Tensor] | None = None if stream.aux is None else {}
        asked = (aux,) if self.has_router and aux is not None else ()
        y, state = self.mix(self._read(stream), segments, state, return_state, *asked)
        y = scaled(self.norm(y) if self.is_post_normed else y, self.residual_multiplier)
        return stream._replace(hidden=stream.hidden + y, aux=aux), state

    def _read(self, stream: Stream) -> Tensor:
        return stream.hidden if self.is_post_normed else self.norm(stream.hidden)

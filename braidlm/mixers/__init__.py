"""The mixers as modules: x (B, T, d_model) -> u (B, T, width), with their state passed explicitly.

The output projection belongs to the block, so that one module serves alone and as a branch.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from braidlm.arch.mixers import (
    AttentionConfig,
    BMojoFConfig,
    GatedDeltaNetConfig,
    KDAConfig,
    Mamba1Config,
    Mamba2Config,
    MixerConfig,
    MLAConfig,
    MLPConfig,
    MoEConfig,
)
from braidlm.mixers.attention import Attention
from braidlm.mixers.bmojo_f import BMojoF
from braidlm.mixers.gated_deltanet import GatedDeltaNet
from braidlm.mixers.kda import KDA
from braidlm.mixers.mamba1 import Mamba1
from braidlm.mixers.mamba2 import Mamba2
from braidlm.mixers.mla import MLA
from braidlm.mixers.mlp import MLP
from braidlm.mixers.moe import MoE
from braidlm.segments import Segments


class Mixer(Protocol):
    """What a block asks of a mixer."""

    def __call__(
        self, x: Tensor, segments: Segments | None, state: Any, return_state: bool
    ) -> tuple[Tensor, Any]:
        """Return u (B, T, width) and the state after the last token of each document, or None."""
        ...

    def reset_parameters(self, std: float) -> None:
        """Draw the initial weights; matrices are normal with this standard deviation."""
        ...


def build(
    config: MixerConfig,
    d_model: int,
    norm_eps: float,
    norm_offset: float = 0.0,
    lends_as: str = "",
) -> Attention | BMojoF | GatedDeltaNet | KDA | Mamba1 | Mamba2 | MLA | MLP | MoE:
    """Build the mixer that `config` declares, for an input of width `d_model`.

    An attention with `lends_as` lends its keys and values by that letter.

    Raises:
        ValueError: for a declaration without a module.
    """
    match config:
        case AttentionConfig():
            return Attention(config, d_model, norm_eps, norm_offset, lends_as)
        case BMojoFConfig():
            ssm = build(config.ssm, d_model, norm_eps, norm_offset)
            return BMojoF(config, ssm, d_model, norm_eps, norm_offset)
        case Mamba1Config():
            return Mamba1(config, d_model)
        case GatedDeltaNetConfig():
            return GatedDeltaNet(config, d_model, norm_eps)
        case KDAConfig():
            return KDA(config, d_model, norm_eps)
        case Mamba2Config():
            return Mamba2(config, d_model, norm_eps)
        case MLAConfig():
            return MLA(config, d_model, norm_eps, norm_offset)
        case MLPConfig():
            return MLP(config, d_model)
        case MoEConfig():
            return MoE(config, d_model)
    raise ValueError(f"no module implements {type(config).__name__}")


__all__ = [
    "KDA",
    "MLA",
    "MLP",
    "Attention",
    "BMojoF",
    "GatedDeltaNet",
    "Mamba1",
    "Mamba2",
    "Mixer",
    "MoE",
    "build",
]

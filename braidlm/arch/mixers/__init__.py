"""Declarations of the mixers, one file each, and the union that a spec chooses from."""

from typing import Annotated

from pydantic import Field

from braidlm.arch.mixers.attention import AttentionConfig
from braidlm.arch.mixers.base import MixerConfig
from braidlm.arch.mixers.bmojo_f import BMojoFConfig
from braidlm.arch.mixers.delta import DeltaConfig
from braidlm.arch.mixers.gated_deltanet import GatedDeltaNetConfig
from braidlm.arch.mixers.kda import KDAConfig
from braidlm.arch.mixers.mamba1 import Mamba1Config
from braidlm.arch.mixers.mamba2 import Mamba2Config
from braidlm.arch.mixers.mla import MLAConfig
from braidlm.arch.mixers.mlp import MLPConfig
from braidlm.arch.mixers.moe import MoEConfig
from braidlm.arch.mixers.rope_scaling import RopeScaling

KINDS: dict[str, type[MixerConfig]] = {
    "attention": AttentionConfig,
    "bmojo_f": BMojoFConfig,
    "mamba1": Mamba1Config,
    "gated_deltanet": GatedDeltaNetConfig,
    "kda": KDAConfig,
    "mamba2": Mamba2Config,
    "mla": MLAConfig,
    "mlp": MLPConfig,
    "moe": MoEConfig,
}
"""Every kind of mixer by name."""

AnyMixer = Annotated[
    AttentionConfig
    | BMojoFConfig
    | GatedDeltaNetConfig
    | KDAConfig
    | Mamba1Config
    | Mamba2Config
    | MLAConfig
    | MLPConfig
    | MoEConfig,
    Field(discriminator="kind"),
]

__all__ = [
    "KINDS",
    "AnyMixer",
    "AttentionConfig",
    "BMojoFConfig",
    "DeltaConfig",
    "GatedDeltaNetConfig",
    "KDAConfig",
    "MLAConfig",
    "MLPConfig",
    "Mamba1Config",
    "Mamba2Config",
    "MixerConfig",
    "MoEConfig",
    "RopeScaling",
]

"""Gated DeltaNet of flash-linear-attention, with its kernels; it needs a GPU.

Its configuration is made here, and held to the declaration by what reads its checkpoints.
"""

from __future__ import annotations

import importlib.util
from importlib.metadata import version
from typing import Any

import torch

from braidlm.arch import Spec
from braidlm.arch.mixers import AttentionConfig, GatedDeltaNetConfig
from braidlm.bench.contender import Library, NoPeerError, Setting
from braidlm.bench.peers.pretrained import Answering, Built, Trained, check_size
from braidlm.bench.peers.shapes import check_same, layers
from braidlm.errors import InputError
from braidlm.interop.families.fla import GATED_DELTANET

WHERE = "fla's configuration"


def configuration(spec: Spec) -> dict[str, Any]:
    """Return the configuration that reads back as this model.

    Raises:
        NoPeerError: none does; names the sublayer or the field.
    """
    laid = layers(spec)
    delta, attention = laid.first(GatedDeltaNetConfig), laid.first(AttentionConfig)
    if delta is None or laid.mlp is None:
        raise NoPeerError("its models compared here are Gated DeltaNet with MLPs")
    fields: dict[str, Any] = {
        "hidden_size": spec.d_model,
        "num_hidden_layers": len(laid.mixers),
        "vocab_size": spec.vocab_size,
        "tie_word_embeddings": spec.tie_embeddings,
        "norm_eps": spec.norm_eps,
        "num_heads": delta.n_heads,
        "num_v_heads": delta.n_v_heads,
        "head_dim": delta.head_dim,
        "expand_v": delta.v_head_dim / delta.head_dim,
        "conv_size": delta.d_conv,
        "allow_neg_eigval": delta.allow_negative_eigenvalues,
        "intermediate_size": laid.mlp.d_ff,
    }
    if attention is not None:
        fields["attn"] = _attention(attention, laid.places(AttentionConfig))
    try:
        check_same(spec, GATED_DELTANET.spec(fields, WHERE))
    except InputError as error:
        raise NoPeerError(str(error)) from None
    return fields


def _attention(mixer: AttentionConfig, places: list[int]) -> dict[str, Any]:
    return {
        "layers": places,
        "num_heads": mixer.n_heads,
        "num_kv_heads": mixer.n_kv_heads,
        "qkv_bias": mixer.in_bias,
        "window_size": mixer.window,
        "rope_theta": mixer.rope_theta,
    }


def _built(setting: Setting) -> Built:
    if not is_installed():
        raise NoPeerError("flash-linear-attention is not installed")
    fields = configuration(setting.recipe.spec)
    if setting.device.type != "cuda":
        raise NoPeerError("flash-linear-attention has kernels for GPUs alone")
    from fla.models import GatedDeltaNetConfig as Config  # pyright: ignore
    from fla.models import GatedDeltaNetForCausalLM  # pyright: ignore

    torch.manual_seed(setting.plan.seed)
    with setting.device:
        ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
        model = GatedDeltaNetForCausalLM(Config(**fields, **ids))
    check_size(setting.recipe.spec, model, "model")
    about = {
        "library": f"fla {version('fla-core')}",
        "class": type(model).__name__,
        "kernels": "its own",
    }
    return Built(model, "fla gated_deltanet", about)


def is_installed() -> bool:
    """Whether the package with its models can be found; it is not imported."""
    return importlib.util.find_spec("fla") is not None


LIBRARY = Library(
    "fla",
    lambda setting: Trained(setting, _built(setting)),
    lambda setting: Answering(setting, _built(setting)),
    is_installed,
)

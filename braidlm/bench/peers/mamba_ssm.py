"""The model of the package mamba-ssm of the same shapes, with its kernels; it needs a GPU.

Its configuration is made here, and held to the declaration by what reads its checkpoints.
"""

from __future__ import annotations

import importlib.util
from importlib.metadata import version
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.arch import Spec
from braidlm.arch.mixers import AttentionConfig, Mamba1Config, Mamba2Config
from braidlm.bench.contender import Call, Library, NoPeerError, Setting
from braidlm.bench.contender import Stamps as StampsOf
from braidlm.bench.peers.plain import PlainTraining
from braidlm.bench.peers.pretrained import Built, Stamps, check_size
from braidlm.bench.peers.shapes import check_same, layers
from braidlm.errors import InputError
from braidlm.generate.mode import weights_dtype
from braidlm.interop.families.mamba_ssm import flattened, of_flattened

WHERE = "mamba_ssm's configuration"


def configuration(spec: Spec) -> dict[str, Any]:
    """Return the configuration that reads back as this model.

    Raises:
        NoPeerError: none does; names the sublayer or the field.
    """
    laid, d_model = layers(spec), spec.d_model
    scan = laid.first(Mamba2Config) or laid.first(Mamba1Config)
    if scan is None:
        raise NoPeerError("it has no model without Mamba-1 or Mamba-2")
    attention = laid.first(AttentionConfig)
    fields = {
        "d_model": d_model,
        "n_layer": len(laid.mixers),
        "vocab_size": spec.vocab_size,
        "d_intermediate": laid.mlp.d_ff if laid.mlp else 0,
        "attn_layer_idx": laid.places(AttentionConfig),
        "attn_cfg": _attention(attention) if attention else {},
        "ssm_cfg": _mamba2(scan, d_model)
        if isinstance(scan, Mamba2Config)
        else _mamba1(scan, d_model),
        "tie_embeddings": spec.tie_embeddings,
        "pad_vocab_size_multiple": 1,
    }
    try:
        flat = flattened(fields, WHERE)
        check_same(spec, of_flattened(flat, WHERE).spec(flat, WHERE))
    except InputError as error:
        raise NoPeerError(str(error)) from None
    return fields


def _mamba2(scan: Mamba2Config, d_model: int) -> dict[str, Any]:
    return {
        "layer": "Mamba2",
        "d_state": scan.d_state,
        "d_conv": scan.d_conv,
        "expand": _whole(scan.width, d_model),
        "headdim": scan.head_dim,
        "ngroups": scan.n_groups,
        "conv_bias": scan.conv_bias,
        "bias": scan.in_bias,
        "rmsnorm": scan.norm != "none",
        "norm_before_gate": scan.norm == "norm_first",
    }


def _mamba1(scan: Mamba1Config, d_model: int) -> dict[str, Any]:
    return {
        "layer": "Mamba1",
        "d_state": scan.d_state,
        "d_conv": scan.d_conv,
        "expand": _whole(scan.d_inner, d_model),
        "dt_rank": scan.dt_rank,
        "conv_bias": scan.conv_bias,
        "bias": scan.in_bias,
    }


def _attention(mixer: AttentionConfig) -> dict[str, Any]:
    return {
        "causal": True,
        "num_heads": mixer.n_heads,
        "num_heads_kv": mixer.n_kv_heads,
        "head_dim": mixer.head_dim,
        "qkv_proj_bias": mixer.in_bias,
        "out_proj_bias": mixer.out_bias,
        "rotary_emb_dim": 0 if mixer.position == "none" else mixer.rope_dim,
        "rotary_emb_base": mixer.rope_theta,
    }


def _whole(width: int, d_model: int) -> int:
    if width % d_model:
        raise NoPeerError(f"its inner width is a multiple of d_model = {d_model}, not {width}")
    return width // d_model


class Trained:
    """A model of it that is trained, with a plain cross-entropy on full logits."""

    def __init__(self, setting: Setting) -> None:
        self.model, self.name, self.about = _built(setting)
        self.faults: list[str] = []
        self.allocated: dict[str, int] = {}
        self.model.train()
        self._plain = PlainTraining(self.model, setting, self._loss)
        self.about["precision"] = self._plain.precision

    def _loss(self, rows: Tensor) -> Tensor:
        logits = self.model(rows[:, :-1].contiguous()).logits
        return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())

    def update(self, rows: Tensor) -> Call:
        """Return forward, loss, backward, clipping and fused AdamW."""
        return self._plain.update(rows)

    def close(self) -> None:
        """Forget model, gradients and moments."""
        del self.model, self._plain


class Answering:
    """A model of it that answers; its `generate` replays a CUDA graph."""

    def __init__(self, setting: Setting) -> None:
        self.model, self.name, self.about = _built(setting)
        self.faults: list[str] = []
        self.allocated: dict[str, int] = {}
        self.model.to(weights_dtype(setting.answering_dtype)).eval()
        self.about |= {"precision": f"{setting.answering_dtype} weights", "step": "CUDA graph"}

    def prefill(self, prompts: Tensor) -> Call:
        """Return a forward pass with its states, and the head of the last token."""
        from mamba_ssm.utils.generation import InferenceParams  # pyright: ignore

        n_rows, context = prompts.shape

        def call() -> None:
            with torch.inference_mode():
                memory = InferenceParams(max_seqlen=context + 1, max_batch_size=n_rows)
                out = self.model(prompts, inference_params=memory, num_last_tokens=1)
                out.logits[:, -1].argmax(-1).tolist()

        return call

    def generate(self, prompts: Tensor, new_tokens: int) -> StampsOf:
        """Return its own `generate`, greedy."""

        def call() -> list[float]:
            stamps = Stamps()
            length = prompts.shape[1] + new_tokens
            self.model.generate(prompts, max_length=length, top_k=1, cg=True, streamer=stamps)
            return stamps.moments

        return call

    def close(self) -> None:
        """Forget the model."""
        del self.model


def _built(setting: Setting) -> Built:
    if not is_installed():
        raise NoPeerError("mamba-ssm is not installed")
    fields = configuration(setting.recipe.spec)
    if setting.device.type != "cuda":
        raise NoPeerError("mamba-ssm has kernels for GPUs alone")
    from mamba_ssm.models.config_mamba import MambaConfig  # pyright: ignore
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel  # pyright: ignore

    torch.manual_seed(setting.plan.seed)
    model = MambaLMHeadModel(MambaConfig(**fields), device=setting.device)
    check_size(setting.recipe.spec, model, "model")
    about = {"library": f"mamba-ssm {version('mamba-ssm')}", "kernels": "its own"}
    return Built(model, "mamba-ssm", about)


def is_installed() -> bool:
    """Whether the package can be found; it is not imported."""
    return importlib.util.find_spec("mamba_ssm") is not None


LIBRARY = Library("mamba-ssm", Trained, Answering, is_installed)

"""The papers' own ways of counting, which reproduce the figures that they print.

They are for reading the papers. Our own exact count is `arch.cost`; `differences` names every
term in which a published count of parameters departs from it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from braidlm.arch.cost import Cost, cost
from braidlm.arch.mixers import (
    AttentionConfig,
    Mamba1Config,
    Mamba2Config,
    MixerConfig,
    MLPConfig,
)
from braidlm.arch.mixers.tiles import visible_pairs
from braidlm.arch.spec import Spec, Sublayer
from braidlm.arch.wiring import PLAIN, WIRING
from braidlm.errors import InputError

Convention = Literal["bae", "nvidia"]
CONVENTIONS: tuple[Convention, ...] = ("bae", "nvidia")
BF16_BYTES = 2


@dataclass(frozen=True)
class PublishedSublayer:
    """One residual sublayer as a paper counts it."""

    index: int
    symbol: str
    n_params: int
    cache_bytes: int
    """KV cache or state of one sequence at the context, in bf16."""
    training_flops: int | None
    """Forward and backward over one sequence; None where the paper gives no formula."""


@dataclass(frozen=True)
class Published:
    """A whole model as a paper counts it; embeddings are in `n_params` and in no FLOPs."""

    convention: Convention
    context: int
    sublayers: tuple[PublishedSublayer, ...]
    outer_params: int
    """Embedding, head and final norm, as far as the convention counts them."""
    kv_bytes: int
    """KV caches of one sequence at the context, in bf16."""
    kv_bytes_per_token: int
    """Bytes that one more token adds to them."""
    state_bytes: int

    @property
    def n_params(self) -> int:
        """Parameters by the convention."""
        return self.outer_params + sum(s.n_params for s in self.sublayers)

    @property
    def cache_bytes(self) -> int:
        """KV caches and states of one sequence at the context, in bf16."""
        return sum(s.cache_bytes for s in self.sublayers)

    @property
    def training_flops_per_token(self) -> int | None:
        """Forward and backward per token, head left out; None without a formula."""
        flops = [s.training_flops for s in self.sublayers if s.training_flops is not None]
        return sum(flops) // self.context if len(flops) == len(self.sublayers) else None


def published(convention: Convention, spec: Spec, context: int) -> Published:
    """Count a model as a paper does.

    Args:
        convention: ``"bae"`` counts blocks without norms, biases and embeddings, and states in
            bf16 with `d_conv` columns of the convolution's input; ``"nvidia"`` counts every
            parameter, and states in the same way. Only ``"bae"`` has FLOPs.
        spec: the model.
        context: tokens of the sequence.

    Raises:
        InputError: for an unknown convention, a context below 1, or a model that the paper's
            formulas do not cover.

    Source: Bae et al. 2025 (arXiv 2510.04800), appendix on cost; Waleffe et al. 2024
    (arXiv 2406.07887) with Megatron-LM's and NeMo's configurations.
    """
    if convention not in CONVENTIONS:
        raise InputError(f"convention = {convention!r}: allowed are {', '.join(CONVENTIONS)}")
    if context < 1:
        raise InputError(f"context = {context}: must be at least 1 token")
    exact = cost(spec, context, kv_dtype_bytes=BF16_BYTES)
    return Published(
        convention=convention,
        context=context,
        sublayers=_bae(spec, context) if convention == "bae" else _nvidia(spec, exact),
        outer_params=exact.n_params - exact.block_params if convention == "nvidia" else 0,
        kv_bytes=exact.kv_bytes,
        kv_bytes_per_token=exact.kv_bytes_per_token,
        state_bytes=sum(_paper_state_bytes(b) for s in spec.sublayers for b in s.branches),
    )


def differences(convention: Convention, spec: Spec) -> dict[str, int]:
    """Return by name what `arch.cost` counts as parameters and the convention does not.

    The values sum to ``cost(spec, ...).n_params - published(convention, spec, ...).n_params``.

    Raises:
        InputError: as `published`.
    """
    published(convention, spec, 1)
    if convention == "nvidia":
        return {}
    terms: Counter[str] = Counter()
    for s in spec.sublayers:
        terms["norm of each sublayer"] += spec.d_model
        (mixer,) = s.branches
        if isinstance(mixer, Mamba2Config):
            terms.update(_mamba2_terms(mixer))
    embedding = spec.vocab_size * spec.d_model
    terms["final norm"] = spec.d_model
    terms["embedding"] = embedding
    terms["head"] = 0 if spec.tie_embeddings else embedding
    return {name: n for name, n in terms.items() if n}


def _mamba2_terms(mixer: Mamba2Config) -> dict[str, int]:
    return {
        "convolution over B and C": 2 * mixer.d_state * mixer.d_conv,
        "bias of the convolution": mixer.conv_width if mixer.conv_bias else 0,
        "one of A_log, D, dt_bias": mixer.n_heads,
        "gated norm": 0 if mixer.norm == "none" else mixer.d_inner,
    }


def _paper_state_bytes(mixer: MixerConfig) -> int:
    columns = mixer.d_conv if isinstance(mixer, Mamba1Config | Mamba2Config) else None
    return mixer.state_bytes(BF16_BYTES, columns)


def _nvidia(spec: Spec, exact: Cost) -> tuple[PublishedSublayer, ...]:
    return tuple(
        PublishedSublayer(
            index=s.index,
            symbol=s.symbol,
            n_params=s.n_params,
            cache_bytes=s.kv_bytes + sum(_paper_state_bytes(b) for b in sublayer.branches),
            training_flops=None,
        )
        for s, sublayer in zip(exact.sublayers, spec.sublayers, strict=True)
    )


def _bae(spec: Spec, context: int) -> tuple[PublishedSublayer, ...]:
    if spec.n_meta_tokens:
        raise InputError(
            f"convention = 'bae': its formulas know no meta tokens (n_meta_tokens = "
            f"{spec.n_meta_tokens}); use the exact count"
        )
    rows = []
    for s in spec.sublayers:
        mixer = _only_branch(s)
        _refuse_wiring(s)
        n_params = _bae_params(mixer, spec.d_model)
        flops = 6 * n_params * context + _bae_extra_flops(mixer, context)
        cache = mixer.kv_bytes(context, BF16_BYTES) + _paper_state_bytes(mixer)
        rows.append(PublishedSublayer(s.index, s.symbol, n_params, cache, flops))
    return tuple(rows)


def _only_branch(s: Sublayer) -> MixerConfig:
    if s.is_parallel:
        raise InputError(
            f"convention = 'bae': gives no formula for the parallel sublayer {s.symbol}; "
            "use the exact count"
        )
    return s.branches[0]


def _bae_params(mixer: MixerConfig, d_model: int) -> int:
    """Parameters of a block and its output projection, norms and biases left out."""
    _refuse_biases(mixer)
    if isinstance(mixer, AttentionConfig) and _is_plain(mixer):
        q_and_out = 2 * d_model * mixer.n_heads * mixer.head_dim
        return q_and_out + 2 * d_model * mixer.head_dim * mixer.n_kv_heads
    if isinstance(mixer, Mamba2Config) and mixer.n_groups == 1:
        into = d_model * (2 * mixer.d_inner + 2 * mixer.d_state + mixer.n_heads)
        return into + mixer.d_inner * (mixer.d_conv + d_model) + 2 * mixer.n_heads
    if isinstance(mixer, MLPConfig):
        return mixer.n_params(d_model) + mixer.width * d_model
    raise InputError(
        f"convention = 'bae': its formulas need attention with v_head_dim = head_dim and without "
        "gate, norms, sink logit and keys of another, and mamba2 with n_groups = 1, "
        f"not {_shape(mixer)}; use the exact count"
    )


def _refuse_wiring(s: Sublayer) -> None:
    for name in WIRING:
        value = getattr(s.wiring, name)
        if name != "norm_position" and value != getattr(PLAIN, name):
            raise InputError(
                f"convention = 'bae': gives no formula for {name} = {str(value).lower()} of "
                f"sublayer {s.index} ({s.symbol}); use the exact count"
            )


def _refuse_biases(mixer: MixerConfig) -> None:
    has_in = isinstance(mixer, AttentionConfig | Mamba2Config | MLPConfig) and mixer.in_bias
    if has_in or mixer.out_bias:
        raise InputError(
            f"convention = 'bae': its formulas know no biases of projections, as here "
            f"({mixer.summary}); use the exact count"
        )


def _is_plain(mixer: AttentionConfig) -> bool:
    """Whether q, k, v of one width are all the parameters, as the formula has it."""
    bare = (
        mixer.qk_norm == "none"
        and mixer.kv_from is None
        and mixer.output_gate == "none"
        and not mixer.sink_logit
    )
    return bare and mixer.v_head_dim == mixer.head_dim


def _shape(mixer: MixerConfig) -> str:
    if isinstance(mixer, AttentionConfig) and mixer.v_head_dim == mixer.head_dim:
        return mixer.summary
    if isinstance(mixer, AttentionConfig):
        return f"v_head_dim = {mixer.v_head_dim} with head_dim = {mixer.head_dim}"
    if isinstance(mixer, Mamba2Config):
        return f"n_groups = {mixer.n_groups}"
    return type(mixer).__name__


def _bae_extra_flops(mixer: MixerConfig, context: int) -> int:
    """Training FLOPs of one sequence that do not come from parameters."""
    if isinstance(mixer, AttentionConfig):
        return 12 * mixer.width * visible_pairs(context, mixer.window, mixer.n_sinks)
    if isinstance(mixer, Mamba2Config):
        return 3 * context * (9 * mixer.d_inner * mixer.d_state + 2 * mixer.d_inner)
    return 0

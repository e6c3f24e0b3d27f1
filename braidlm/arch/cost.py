"""What a declared model costs, in exact integers, before anything is built.

`docs/cost.md` defines the conventions. In short: a parameter is a trained number; a FLOP is a
multiplication or an addition of a matrix product, of a recurrence or of a convolution
(norms, activations, elementwise products and the embedding lookup are not counted); the canonical
`model_flops` count causal attention as the pairs that it really sees; training is three forward
passes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from braidlm.arch.mixers.base import matmul_flops
from braidlm.arch.spec import Spec, Sublayer
from braidlm.errors import InputError

TRAINING_PASSES = 3
"""Forward passes that one training step is worth: the backward pass counts twice."""


@dataclass(frozen=True)
class SublayerCost:
    """One residual sublayer: its norm, branches, fusion and output projection(s)."""

    index: int
    symbol: str
    n_params: int
    """Parameters; those that a shared letter's uses have in common count at the first."""
    n_active_params: int
    """Parameters that one token uses, at most where a shared router chooses, counted likewise."""
    n_read_params: int
    """Parameters that a decode step reads here, shared ones at every use."""
    model_flops: int
    """Forward FLOPs over one sequence of `context` tokens."""
    decode_flops: int
    """Forward FLOPs of the last of those tokens alone."""
    kv_bytes: int
    """Bytes of the KV caches of one sequence of `context` tokens."""
    kv_bytes_per_token: int
    """Bytes that one more token adds to them: none once a window is full."""
    kv_read_bytes: int
    """Bytes of them that a decode step reads: all, unless a part of a cache only waits."""
    state_bytes: int
    """Bytes of fixed-size state of one sequence."""


@dataclass(frozen=True)
class Cost:
    """A whole model at one context; FLOPs are forward unless their name says training."""

    context: int
    sublayers: tuple[SublayerCost, ...]
    embedding_params: int
    head_params: int
    """Parameters of the head; 0 when it is the embedding."""
    final_norm_params: int
    head_flops: int
    """Forward FLOPs of the head over `context` tokens, tied or not."""
    weight_dtype_bytes: int
    meta_params: int
    """Parameters of the meta tokens, which a decode step does not read."""
    unread_embedding_params: int
    """Parameters of the embedding that a decode step does not read."""

    @cached_property
    def block_params(self) -> int:
        """Parameters of all sublayers, their norms included."""
        return sum(s.n_params for s in self.sublayers)

    @property
    def n_params(self) -> int:
        """All parameters: embedding, sublayers, final norm, head."""
        return self.block_params + self._outer_params

    @property
    def n_active_params(self) -> int:
        """Parameters that one token uses; the embedding counts in full."""
        return sum(s.n_active_params for s in self.sublayers) + self._outer_params

    @property
    def _outer_params(self) -> int:
        outer = self.embedding_params + self.head_params + self.final_norm_params
        return outer + self.meta_params

    @cached_property
    def model_flops(self) -> int:
        """Forward FLOPs over one sequence of `context` tokens, head included."""
        return sum(s.model_flops for s in self.sublayers) + self.head_flops

    @property
    def model_flops_per_token(self) -> int:
        """The same per token, on average over the sequence, rounded down."""
        return self.model_flops // self.context

    @property
    def training_flops(self) -> int:
        """Forward and backward FLOPs over one sequence."""
        return TRAINING_PASSES * self.model_flops

    @property
    def training_flops_per_token(self) -> int:
        """Forward and backward FLOPs per token, on average over the sequence."""
        return self.training_flops // self.context

    @property
    def decode_flops(self) -> int:
        """Forward FLOPs of one decode step that ends at `context` tokens, batch 1."""
        return sum(s.decode_flops for s in self.sublayers) + self.head_flops // self.context

    @cached_property
    def kv_bytes_per_token(self) -> int:
        """Bytes that one more token than `context` adds to the caches of one sequence."""
        return sum(s.kv_bytes_per_token for s in self.sublayers)

    @cached_property
    def kv_bytes(self) -> int:
        """Bytes of the KV caches of one sequence of `context` tokens."""
        return sum(s.kv_bytes for s in self.sublayers)

    @cached_property
    def kv_read_bytes(self) -> int:
        """Bytes of the KV caches that a decode step at `context` tokens reads."""
        return sum(s.kv_read_bytes for s in self.sublayers)

    @cached_property
    def state_bytes(self) -> int:
        """Bytes of fixed-size state of one sequence."""
        return sum(s.state_bytes for s in self.sublayers)

    @property
    def cache_bytes(self) -> int:
        """Bytes that one sequence of `context` tokens holds: KV caches and states."""
        return self.kv_bytes + self.state_bytes

    @property
    def decode_weight_bytes(self) -> int:
        """Bytes of weights that a decode step reads: untied, one row of the embedding."""
        n_read = sum(s.n_read_params for s in self.sublayers) + self._outer_params
        return self.weight_dtype_bytes * (n_read - self.meta_params - self.unread_embedding_params)

    @property
    def decode_bytes_per_step(self) -> int:
        """Bytes moved by a decode step, batch 1: weights, KV read, states read and written."""
        return self.decode_weight_bytes + self.kv_read_bytes + 2 * self.state_bytes


def cost(
    spec: Spec,
    context: int,
    *,
    weight_dtype_bytes: int = 2,
    kv_dtype_bytes: int = 2,
    state_dtype_bytes: int = 4,
) -> Cost:
    """Return what one sequence of `context` tokens costs, batch 1.

    Args:
        spec: the model.
        context: tokens of the sequence, at least 1.
        weight_dtype_bytes: bytes of one weight when decoding (bf16).
        kv_dtype_bytes: bytes of one number of a KV cache (bf16).
        state_dtype_bytes: bytes of one number of a fixed-size state (fp32).

    Raises:
        InputError: for a context below 1.
    """
    embedding = spec.vocab_size * spec.d_model
    return Cost(
        context=context,
        sublayers=sublayer_costs(
            spec, context, kv_dtype_bytes=kv_dtype_bytes, state_dtype_bytes=state_dtype_bytes
        ),
        embedding_params=embedding,
        head_params=0 if spec.tie_embeddings else embedding,
        final_norm_params=spec.d_model,
        head_flops=matmul_flops(context, (spec.d_model, spec.vocab_size)),
        weight_dtype_bytes=weight_dtype_bytes,
        meta_params=spec.n_meta_tokens * spec.d_model,
        unread_embedding_params=0 if spec.tie_embeddings else embedding - spec.d_model,
    )


def sublayer_costs(
    spec: Spec, context: int, *, kv_dtype_bytes: int = 2, state_dtype_bytes: int = 4
) -> tuple[SublayerCost, ...]:
    """Return the cost of every residual sublayer, in order; arguments as for `cost`.

    Raises:
        InputError: for a context below 1.
    """
    if context < 1:
        raise InputError(f"context = {context}: must be at least 1 token")
    n_uses = Counter(s.owner for s in spec.sublayers)
    return tuple(
        _sublayer_cost(s, n_uses[s.index], spec, context, kv_dtype_bytes, state_dtype_bytes)
        for s in spec.sublayers
    )


def train_flops(spec: Spec, context: int, tokens: int) -> int:
    """Return the canonical FLOPs of training on `tokens` tokens in sequences of `context`.

    Where that is no whole number of sequences the result is rounded down.
    """
    return cost(spec, context).training_flops * tokens // context


def executed_matmul_flops(spec: Spec, batch: int, n_tokens: int) -> int:
    """Return the forward FLOPs that torch's FlopCounterMode reports for this package's own code.

    Args:
        spec: the model.
        batch: rows, each one document.
        n_tokens: tokens per row.

    Returns:
        FLOPs of the products that run, head included: attention's square in full and the
        matrices of the chunked recurrence. The short convolution is no matrix product.
    """
    n_seen = n_tokens + spec.n_meta_tokens
    return _head_flops(spec, batch, n_tokens) + sum(
        sublayer_executed_flops(s, spec.d_model, batch, n_seen) for s in spec.sublayers
    )


def executed_training_flops(spec: Spec, batch: int, n_tokens: int) -> int:
    """Return the same for forward and backward; a fused attention recomputes its scores."""
    flops = TRAINING_PASSES * _head_flops(spec, batch, n_tokens)
    n_seen = n_tokens + spec.n_meta_tokens
    for s in spec.sublayers:
        flops += sublayer_executed_flops(s, spec.d_model, batch, n_seen)
        flops += _executed_backward(s, spec.d_model, batch, n_seen)
    return flops


def sublayer_executed_flops(sublayer: Sublayer, d_model: int, batch: int, n_tokens: int) -> int:
    """Return `executed_matmul_flops` of one residual sublayer."""
    branches, width = sublayer.branches, sublayer.input_width(d_model)
    flops = sum(b.executed_matmul_flops(width, batch, n_tokens) for b in branches)
    flops += sublayer.use_flops(d_model, batch * n_tokens)
    if sublayer.fusion is None:
        return flops + 2 * batch * n_tokens * branches[0].output_params(d_model)
    return flops + sublayer.fusion.executed_matmul_flops(branches, d_model, batch, n_tokens)


def _executed_backward(sublayer: Sublayer, d_model: int, batch: int, n_tokens: int) -> int:
    branches, width = sublayer.branches, sublayer.input_width(d_model)
    flops = sum(b.executed_backward_flops(width, batch, n_tokens) for b in branches)
    flops += 2 * sublayer.use_flops(d_model, batch * n_tokens)
    if sublayer.fusion is None:
        return flops + 4 * batch * n_tokens * branches[0].output_params(d_model)
    return flops + sublayer.fusion.executed_backward_flops(branches, d_model, batch, n_tokens)


def _head_flops(spec: Spec, batch: int, n_tokens: int) -> int:
    return matmul_flops(batch * n_tokens, (spec.d_model, spec.vocab_size))


def _sublayer_cost(
    s: Sublayer,
    n_uses: int,
    spec: Spec,
    context: int,
    kv_dtype_bytes: int,
    state_dtype_bytes: int,
) -> SublayerCost:
    """The first token of a sequence also pays for the meta tokens before it.

    `n_uses` is that of the weights that the sublayer owns, 0 if it owns none.
    """
    d_model, n_seen = spec.d_model, context + spec.n_meta_tokens
    of_use, width = s.use_params(d_model), s.input_width(d_model)
    common = _output_params(s, d_model) + s.norm_width(d_model)
    n_params = common + sum(b.n_params(width) for b in s.branches)
    n_active = common + sum(b.n_active_params(width, max(n_uses, 1)) for b in s.branches)
    n_read = common + sum(b.n_active_params(width) for b in s.branches)
    flops = _model_flops(s, d_model, n_seen)
    kv = _kv_bytes(s, n_seen, kv_dtype_bytes)
    return SublayerCost(
        index=s.index,
        symbol=s.symbol,
        n_params=of_use + n_params * s.owns_weights,
        n_active_params=of_use + n_active * s.owns_weights,
        n_read_params=of_use + n_read,
        model_flops=flops,
        decode_flops=flops - (_model_flops(s, d_model, n_seen - 1) if context > 1 else 0),
        kv_bytes=kv,
        kv_bytes_per_token=_kv_bytes(s, n_seen + 1, kv_dtype_bytes) - kv,
        kv_read_bytes=_kv_read_bytes(s, n_seen, kv_dtype_bytes),
        state_bytes=sum(b.state_bytes(state_dtype_bytes) for b in s.branches),
    )


def _kv_bytes(s: Sublayer, n_tokens: int, dtype_bytes: int) -> int:
    """Bytes of the caches of the branches and of their fusion."""
    held = sum(b.kv_bytes(n_tokens, dtype_bytes) for b in s.branches)
    return held + (s.fusion.kv_bytes(n_tokens, dtype_bytes) if s.fusion else 0)


def _kv_read_bytes(s: Sublayer, n_tokens: int, dtype_bytes: int) -> int:
    read = sum(b.kv_read_bytes(n_tokens, dtype_bytes) for b in s.branches)
    return read + (s.fusion.kv_bytes(n_tokens, dtype_bytes) if s.fusion else 0)


def _output_params(s: Sublayer, d_model: int) -> int:
    """Parameters between the branches and the residual stream."""
    if s.fusion is None:
        (mixer,) = s.branches
        return mixer.output_params(d_model) + mixer.out_bias * d_model
    return s.fusion.n_params(s.branches, d_model)


def _model_flops(s: Sublayer, d_model: int, n_tokens: int) -> int:
    width = s.input_width(d_model)
    flops = sum(b.model_flops(width, n_tokens) for b in s.branches)
    flops += s.use_flops(d_model, n_tokens)
    if s.fusion is None:
        return flops + 2 * n_tokens * s.branches[0].output_params(d_model)
    return flops + s.fusion.model_flops(s.branches, d_model, n_tokens)

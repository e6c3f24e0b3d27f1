"""What a declaration says of a measurement before it is made. Nothing here is fitted."""

from __future__ import annotations

from typing import Any

from braidlm.arch import Spec
from braidlm.arch.cost import Cost, cost, executed_training_flops
from braidlm.arch.reads import batch_reads

FP32_BYTES = 4
OPTIMIZER_NUMBERS = 2
"""AdamW's moments, in fp32 each."""


def width_of(dtype: str) -> int:
    """Return the bytes of a number of "fp32" or "bf16"."""
    return 2 if dtype == "bf16" else FP32_BYTES


def priced(spec: Spec, context: int, dtype: str) -> Cost:
    """Return the cost of one row when weights and KV caches are of `dtype`; states are fp32."""
    width = width_of(dtype)
    return cost(spec, context, weight_dtype_bytes=width, kv_dtype_bytes=width)


def training(spec: Spec, context: int, batch: int) -> dict[str, Any]:
    """Return what an update of `batch` rows of `context` tokens costs.

    Returns:
        model_flops: forward and backward, canonical (docs/cost.md).
        executed_flops: of matrix products as they run, under the conventions of torch's counter.
        held_bytes: weights, gradients and both moments of AdamW in fp32.
        stream_bytes: the input of each sublayer in fp32, which backward needs whatever else is
            kept: a floor of the memory of activations, not all of it.
        peak_bytes: the sum of both: a floor.
    """
    c = cost(spec, context)
    held = (2 + OPTIMIZER_NUMBERS) * FP32_BYTES * c.n_params
    n_tokens = batch * (context + spec.n_meta_tokens)
    stream = spec.n_layers * n_tokens * spec.d_model * FP32_BYTES
    return {
        "model_flops": batch * c.training_flops,
        "executed_flops": executed_training_flops(spec, batch, context),
        "held_bytes": held,
        "stream_bytes": stream,
        "peak_bytes": held + stream,
    }


def prefilling(spec: Spec, context: int, batch: int, dtype: str) -> dict[str, Any]:
    """Return what prompts of `context` tokens cost until the next token is known.

    Returns:
        model_flops: canonical, of the head for the last token alone.
        weight_bytes: all weights.
        kv_bytes, state_bytes: of all rows behind the prompt.
        peak_bytes: weights, caches and states: a floor.
    """
    c = priced(spec, context, dtype)
    body = c.model_flops - c.head_flops + c.head_flops // context
    return {"model_flops": batch * body, **_held(c, batch, dtype)}


def decoding(spec: Spec, context: int, batch: int, dtype: str, new_tokens: int) -> dict[str, Any]:
    """Return what a step costs, on average over those that follow the first new token.

    Returns:
        model_flops: canonical, of all rows.
        moved_bytes: weights read once, KV caches of all rows read, states read and written.
        weight_bytes, kv_bytes, state_bytes, peak_bytes: as `prefilling`, behind the prompt.
    """
    steps = [priced(spec, context + i, dtype) for i in range(1, new_tokens)]
    reads = batch_reads(spec, batch, weight_dtype_bytes=width_of(dtype))
    caches = [c.kv_read_bytes + 2 * c.state_bytes for c in steps]
    return {
        "model_flops": batch * sum(c.decode_flops for c in steps) / len(steps),
        "moved_bytes": reads.weight_bytes + batch * sum(caches) / len(steps),
        **_held(priced(spec, context, dtype), batch, dtype),
    }


def _held(c: Cost, batch: int, dtype: str) -> dict[str, int]:
    weights = width_of(dtype) * c.n_params
    kv, state = batch * c.kv_bytes, batch * c.state_bytes
    return {
        "weight_bytes": weights,
        "kv_bytes": kv,
        "state_bytes": state,
        "peak_bytes": weights + kv + state,
    }

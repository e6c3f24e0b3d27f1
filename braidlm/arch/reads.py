"""The weights that one decode step of a batch reads, where routers choose among experts.

One row reads `top_k` experts of a layer. More rows read more of them, until all are read: then an
expert costs a batch what it costs a dense model. Choices are taken to be even and independent.
"""

from __future__ import annotations

from dataclasses import dataclass

from braidlm.arch.cost import cost
from braidlm.arch.mixers import MoEConfig
from braidlm.arch.spec import Spec
from braidlm.errors import InputError


@dataclass(frozen=True)
class BatchReads:
    """A decode step of `batch` rows."""

    batch: int
    distinct_experts: dict[str, float]
    """Letter -> distinct experts that the rows of one such layer use, on average."""
    weight_bytes: int
    """Bytes of weights read, on average: every expert that is used once, whoever uses it."""


def has_experts(spec: Spec) -> bool:
    """Whether any sublayer is a mixture of experts."""
    return any(isinstance(b, MoEConfig) for s in spec.sublayers for b in s.branches)


def batch_reads(spec: Spec, batch: int, *, weight_dtype_bytes: int = 2) -> BatchReads:
    """Return what a decode step of `batch` rows reads; at batch 1 `Cost.decode_weight_bytes`.

    Args:
        spec: the model.
        batch: rows, at least 1.
        weight_dtype_bytes: bytes of one weight (bf16).

    Raises:
        InputError: for a batch below 1.
    """
    if batch < 1:
        raise InputError(f"batch = {batch}: must be at least 1 row")
    distinct: dict[str, float] = {}
    more = 0.0  # parameters beyond those of one row
    for sublayer in spec.sublayers:
        for letter, branch in zip(sublayer.letters, sublayer.branches, strict=True):
            if isinstance(branch, MoEConfig):
                distinct[letter] = branch.expected_experts(batch)
                extra = distinct[letter] - branch.top_k
                more += extra * branch.expert_params(spec.d_model)
    if not spec.tie_embeddings:  # a row of the embedding each
        more += (min(batch, spec.vocab_size) - 1) * spec.d_model
    one = cost(spec, 1, weight_dtype_bytes=weight_dtype_bytes).decode_weight_bytes
    return BatchReads(batch, distinct, one + round(weight_dtype_bytes * more))

"""Whether two declarations compute the same function of their weights."""

from __future__ import annotations

import math
from typing import Any

from braidlm.arch import Spec, Sublayer
from braidlm.arch.config import Config
from braidlm.arch.mixers import AttentionConfig, MixerConfig, MLAConfig
from braidlm.arch.wiring import WIRING

FREE = frozenset(
    {
        *("A_init_min", "A_init_max", "dt_min", "dt_max", "dt_init_floor", "chunk_size"),
        *("init_std", "depth_scaled_init", "mup_base_width", "logits_multiplier"),
        *("aux_coef", "aux_over", "bias_rate", "z_coef"),
        *("pattern", "mixers", "parallel", "fusion"),
    }
)
"""Fields that only decide initial weights or how something is computed, or that are compared in
their resolved form."""


def difference(ours: Spec, theirs: Spec) -> tuple[int, str] | None:
    """Return the first sublayer whose function differs, with a reason; None if all are the same.

    What differs outside the sublayers counts as lying behind the last one.
    """
    for a, b in zip(ours.sublayers, theirs.sublayers, strict=True):
        mine, yours = _facts(a, ours.norm_eps), _facts(b, theirs.norm_eps)
        for name in mine | yours:
            if not _same(mine.get(name), yours.get(name)):
                where = f"sublayer {a.index} ({a.symbol}): {name} = {mine.get(name)!r}"
                return a.index, f"{where}; only {yours.get(name)!r} can be said"
    mine, yours = (_plain(x) | {"logits_scale": x.logits_scale} for x in (ours, theirs))
    for name in mine | yours:
        if not _same(mine.get(name), yours.get(name)):
            reason = f"{name} = {mine.get(name)!r}; only {yours.get(name)!r} can be said"
            return len(ours.sublayers), reason
    return None


def _same(mine: Any, yours: Any) -> bool:
    """Whether two values are one; a factor may have been written as its inverse."""
    if isinstance(mine, float) and isinstance(yours, float):
        return math.isclose(mine, yours, rel_tol=1e-14)
    return mine == yours


def _head_dim(branch: MixerConfig) -> int:
    assert isinstance(branch, AttentionConfig | MLAConfig)
    return branch.head_dim


def _plain(config: Config) -> dict[str, Any]:
    return {k: v for k, v in config.model_dump().items() if k not in FREE}


def _facts(sublayer: Sublayer, norm_eps: float) -> dict[str, Any]:
    """What a sublayer computes, under the names of its fields; `norm_eps` is the model's."""
    facts: dict[str, Any] = {}
    for i, branch in enumerate(sublayer.branches):
        fields = _plain(branch)
        if "balance" in fields:  # a bias is a part of the function, a loss is not
            fields["balance"] = fields["balance"] == "bias"
        if fields.get("position") == "none":  # nothing is rotated
            fields = {k: v for k, v in fields.items() if not k.startswith("rope_")}
        if fields.get("dt_bc_norm") == "none":
            del fields["dt_bc_norm_eps"]
        if "softmax_scale" in fields:
            fields["softmax_scale"] = fields["softmax_scale"] or _head_dim(branch) ** -0.5
        if "norm_eps" in fields:
            fields["norm_eps"] = fields["norm_eps"] or norm_eps
        start = f"branch {i}, " if sublayer.is_parallel else ""
        facts |= {f"{start}{k}": v for k, v in fields.items()}
    facts |= {name: getattr(sublayer.wiring, name) for name in WIRING}
    facts["owner of its weights"] = sublayer.owner
    if sublayer.fusion is not None:
        facts |= {f"fusion {k}": v for k, v in sublayer.fusion.model_dump().items()}
    return facts

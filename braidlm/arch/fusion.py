"""Declaration of how the branches of a parallel sublayer become one output.

A branch yields u_i (B, T, w_i). First v_i = s_i * Norm_i(u_i); then, with W the output
projection(s) to d_model:

=============== ============================== =========================================
combine         separate                       joint
=============== ============================== =========================================
mean            mean_i W_i v_i                 W mean_i v_i
add             sum_i W_i v_i                  W sum_i v_i
subtract        W_1 v_1 - W_2 v_2              W (v_1 - v_2)
concat          (refused: it is add)           W [v_1; v_2; ...]
cross_attention (refused: it has its own W)    W Attn(q = W_q v_a, k = W_k v_s, v = W_v v_s)
=============== ============================== =========================================

`docs/fusion.md` gives the reason for each refusal and says which are one function class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.config import Config
from braidlm.arch.mixers.base import (
    MixerConfig,
    backward_attention_flops,
    causal_attention_flops,
    executed_attention_flops,
    matmul_flops,
)
from braidlm.errors import InputError


class CrossAttention(Config):
    """The attention of one branch over another; its own q, k, v, o matrices, no position encoding.

    Source: Lee et al. 2025 (arXiv 2510.26912): the attention branch asks, the SSM branch answers.
    """

    n_heads: int = Field(gt=0)
    """Query heads. Default: those of the attention branch."""
    n_kv_heads: int = Field(gt=0)
    """Key/value heads. Default: those of the attention branch."""
    head_dim: int = Field(gt=0)
    """Channels of a head. Default: that of the attention branch."""
    residual: bool = False
    """Whether the querying branch is added to the result before W_o (widths must agree)."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"n_kv_heads = {self.n_kv_heads}: must divide n_heads = {self.n_heads}"
            )
        return self

    @property
    def width(self) -> int:
        """Channels of the attention's output."""
        return self.n_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Channels of one token's keys and values together."""
        return 2 * self.n_kv_heads * self.head_dim


class Fusion(Config):
    """How branches are normed, scaled, combined and projected."""

    norm: Literal["none", "rms", "group"] = "rms"
    """Norm of each branch before combining: over all channels, or per head."""
    scale: Literal["none", "learned"] = "none"
    """Whether each branch has a learned factor per channel, initialised to 1."""
    combine: Literal["mean", "add", "subtract", "concat", "cross_attention"] = "mean"
    """The operator."""
    projection: Literal["separate", "joint"] = "separate"
    """Whether each branch has its own output projection. concat and cross_attention: joint."""
    cross: CrossAttention | None = None
    """Shape of the cross attention; only with combine = "cross_attention"."""

    @model_validator(mode="before")
    @classmethod
    def _joint_where_nothing_else_exists(cls, data: Any) -> Any:
        """Spare the declaration of a projection that has only one legal value."""
        if isinstance(data, dict) and data.get("combine") in ("concat", "cross_attention"):
            return {"projection": "joint", **data}
        return data

    @model_validator(mode="after")
    def _combination_is_legal(self) -> Self:
        if self.combine == "concat" and self.projection == "separate":
            raise ValueError(
                "projection = 'separate': concat is always joint "
                "(separate projections of a concatenation are combine = 'add')"
            )
        if (self.combine == "cross_attention") != (self.cross is not None):
            raise ValueError(
                f"combine = '{self.combine}': the field 'cross' belongs to, and only to, "
                "combine = 'cross_attention'"
            )
        if self.combine == "cross_attention" and self.projection == "separate":
            raise ValueError(
                "projection = 'separate': cross_attention has one output projection of its own"
            )
        return self

    @property
    def summary(self) -> str:
        """The choices in a few words, for tables."""
        norm = "" if self.norm == "none" else f"{self.norm} norm, "
        scale = "learned scale, " if self.scale == "learned" else ""
        return f"{self.combine} ({norm}{scale}{self.projection} projection)"

    def check(self, branches: Sequence[MixerConfig]) -> None:
        """Refuse branches that this fusion cannot combine.

        Raises:
            InputError: naming the field and what is allowed.
        """
        widths = [b.width for b in branches]
        if len(branches) > 2 and self.combine in ("subtract", "cross_attention"):
            raise InputError(
                f"combine = '{self.combine}': takes two branches, not {len(branches)}; "
                "mean, add and concat take more"
            )
        equal = len(set(widths)) == 1
        if self.projection == "joint" and self.combine in ("mean", "add", "subtract") and not equal:
            raise InputError(
                f"projection = 'joint': needs branches of equal width, not {widths}; "
                "change a width, or use projection = 'separate' or combine = 'concat'"
            )
        if self.cross is not None:
            querying = branches[self.roles(branches)[0]]
            if self.cross.residual and querying.width != self.cross.width:
                raise InputError(
                    f"cross.residual = true: needs the querying branch's width {querying.width} "
                    f"to equal n_heads * head_dim = {self.cross.width}"
                )

    def roles(self, branches: Sequence[MixerConfig]) -> tuple[int, int]:
        """Return the places of the querying and the answering branch of a cross attention.

        Raises:
            InputError: unless one branch is attention and the other recurrent.
        """
        roles = [b.role for b in branches]
        if sorted(roles) != ["attention", "recurrent"]:
            raise InputError(
                f"combine = 'cross_attention': needs one attention and one recurrent branch, "
                f"not {' and '.join(roles)}"
            )
        return roles.index("attention"), roles.index("recurrent")

    def n_params(self, branches: Sequence[MixerConfig], d_model: int) -> int:
        """Norms, scales, the combining operator's matrices and the output projection(s)."""
        per_channel = (self.norm != "none") + (self.scale == "learned")
        return per_channel * sum(b.width for b in branches) + sum(
            a * b for a, b in self._matrices(branches, d_model)
        )

    def kv_bytes_per_token(self, dtype_bytes: int = 2) -> int:
        """Bytes of one token's entry in the fusion's own cache."""
        return 0 if self.cross is None else self.cross.kv_width * dtype_bytes

    def kv_bytes(self, n_tokens: int, dtype_bytes: int = 2) -> int:
        """Bytes of the fusion's own cache for one sequence of `n_tokens`."""
        return n_tokens * self.kv_bytes_per_token(dtype_bytes)

    def model_flops(self, branches: Sequence[MixerConfig], d_model: int, n_tokens: int) -> int:
        """Matrices, and the causal half of a cross attention."""
        flops = matmul_flops(n_tokens, *self._matrices(branches, d_model))
        if self.cross is not None:
            dim = self.cross.head_dim
            flops += causal_attention_flops(n_tokens, self.cross.n_heads, dim, dim)
        return flops

    def executed_matmul_flops(
        self, branches: Sequence[MixerConfig], d_model: int, batch: int, n_tokens: int
    ) -> int:
        """Matrices, and the full square of a cross attention's scores."""
        flops = matmul_flops(batch * n_tokens, *self._matrices(branches, d_model))
        if self.cross is not None:
            dim = self.cross.head_dim
            flops += batch * executed_attention_flops(n_tokens, self.cross.n_heads, dim, dim)
        return flops

    def executed_backward_flops(
        self, branches: Sequence[MixerConfig], d_model: int, batch: int, n_tokens: int
    ) -> int:
        """Two products for each matrix; the fused kernel's own for a cross attention."""
        flops = 2 * matmul_flops(batch * n_tokens, *self._matrices(branches, d_model))
        if self.cross is not None:
            dim = self.cross.head_dim
            flops += batch * backward_attention_flops(n_tokens, self.cross.n_heads, dim, dim)
        return flops

    def _matrices(self, branches: Sequence[MixerConfig], d_model: int) -> list[tuple[int, int]]:
        """Shapes (in, out) of every matrix that the fusion owns."""
        widths = [b.width for b in branches]
        if self.cross is not None:
            asks, answers = (branches[i].width for i in self.roles(branches))
            c = self.cross
            return [(asks, c.width), (answers, c.kv_width), (c.width, d_model)]
        if self.combine == "concat":
            return [(sum(widths), d_model)]
        if self.projection == "joint":
            return [(widths[0], d_model)]
        return [(w, d_model) for w in widths]

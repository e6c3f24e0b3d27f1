"""Declaration of how the branches of a parallel sublayer become one output.

A branch yields u_i (B, T, w_i). First v_i = s_i * Norm_i(u_i); then, with W the output
projection(s) to d_model and g = sigmoid(W_g x + b) from the sublayer's normed input x:

=============== ============================== =========================================
combine         separate                       joint
=============== ============================== =========================================
mean            mean_i W_i v_i                 W mean_i v_i
add             sum_i W_i v_i                  W sum_i v_i
subtract        W_1 v_1 - W_2 v_2              W (v_1 - v_2)
gate            g W_1 v_1 + (1 - g) W_2 v_2    W (g v_1 + (1 - g) v_2)
concat          (refused: it is add)           W [v_1; v_2; ...]
cross_attention (refused: it has its own W)    W Attn(q = W_q v_a, k = W_k v_s, v = W_v v_s)
merge_attention (refused: it has its own W)    W Attn(q = W_q mean_i v_i, k and v of both)
=============== ============================== =========================================

`docs/fusion.md` gives the reason for each refusal and says which are one function class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import model_validator

from braidlm.arch.config import Config
from braidlm.arch.cross import CrossAttention
from braidlm.arch.mixers.base import MixerConfig, matmul_flops
from braidlm.errors import InputError

Combine = Literal["mean", "add", "subtract", "concat", "gate", "cross_attention", "merge_attention"]
ATTENDING = ("cross_attention", "merge_attention")
"""Operators that own an attention."""
SUMS = ("mean", "add", "subtract", "gate")
"""Operators that add vectors of the branches, weighted."""
OF_MANY = ("mean", "add", "concat")
"""Operators of any number of branches; the others take two."""


class Fusion(Config):
    """How branches are normed, scaled, combined and projected."""

    norm: Literal["none", "rms", "group"] = "rms"
    """Norm of each branch before combining: over all channels, or per head."""
    scale: Literal["none", "learned", "scalar"] = "none"
    """learned: a factor per channel of each branch; scalar: one for the second branch; start: 1."""
    combine: Combine = "mean"
    """The operator."""
    projection: Literal["separate", "joint"] = "separate"
    """Whether each branch has its own output projection. concat and the attentions: joint."""
    gate: Literal["channel", "token"] | None = None
    """Numbers of a gate: one per channel and token, or one per token; only with "gate"."""
    cross: CrossAttention | None = None
    """The attention of combine = "cross_attention" and "merge_attention", and only of these."""

    @model_validator(mode="before")
    @classmethod
    def _what_has_one_legal_value(cls, data: Any) -> Any:
        """Spare the declaration a projection that cannot be another, and a gate its default."""
        if not isinstance(data, dict):
            return data
        if data.get("combine") in ("concat", *ATTENDING):
            return {"projection": "joint", **data}
        if data.get("combine") == "gate" and data.get("gate") is None:
            return {**data, "gate": "channel"}
        return data

    @model_validator(mode="after")
    def _combination_is_legal(self) -> Self:
        attends = self.combine in ATTENDING
        if self.projection == "separate" and self.combine == "concat":
            raise ValueError(
                "projection = 'separate': concat is always joint "
                "(separate projections of a concatenation are combine = 'add')"
            )
        if attends != (self.cross is not None):
            raise ValueError(
                f"combine = '{self.combine}': the field 'cross' belongs to, and only to, "
                "combine = 'cross_attention' and 'merge_attention'"
            )
        if attends and self.projection == "separate":
            raise ValueError(
                f"projection = 'separate': {self.combine} has one output projection of its own"
            )
        if self.gate is not None and self.combine != "gate":
            raise ValueError(f"gate = '{self.gate}': belongs only to combine = 'gate'")
        self._query_is_known()
        return self

    def _query_is_known(self) -> None:
        """One branch of a cross attention asks; in a merge attention both ask and answer."""
        if self.cross is None:
            return
        query = self.cross.query
        if self.combine == "cross_attention" and query is None:
            raise ValueError("cross.query: must be 'attention' or 'recurrent'")
        if self.combine == "merge_attention" and query is not None:
            raise ValueError(
                f"cross.query = '{query}': belongs only to combine = 'cross_attention'; "
                "in merge_attention the mean of both branches asks"
            )
        if self.combine == "merge_attention" and self.cross.answer_residual:
            raise ValueError(
                "cross.answer_residual = true: belongs only to combine = 'cross_attention'; "
                "in merge_attention both branches answer"
            )

    @property
    def summary(self) -> str:
        """The choices in a few words, for tables."""
        norm = "" if self.norm == "none" else f"{self.norm} norm, "
        scale = "" if self.scale == "none" else f"{self.scale} scale, "
        gate = "" if self.gate is None else f"per {self.gate}, "
        cross = "" if self.cross is None else f"{self.cross.summary}, "
        return f"{self.combine} ({norm}{scale}{gate}{cross}{self.projection} projection)"

    @property
    def n_streams(self) -> int:
        """Branches that the fusion's own attention answers from."""
        return 0 if self.cross is None else 1 + (self.combine == "merge_attention")

    def check(self, branches: Sequence[MixerConfig]) -> None:
        """Refuse branches that this fusion cannot combine.

        Raises:
            InputError: naming the field and what is allowed.
        """
        own = next((b for b in branches if b.has_own_output), None)
        if own is not None:
            raise InputError(
                f"branch '{own.summary}': has output projections of its own, "
                "and a fusion combines what comes before them: give it a sublayer of its own"
            )
        n = len(branches)
        if n > 2 and self.combine not in OF_MANY:
            raise InputError(
                f"combine = '{self.combine}': takes two branches, not {n}; "
                "mean, add and concat take more"
            )
        if n > 2 and self.scale == "scalar":
            raise InputError(
                f"scale = 'scalar': weighs the second of two branches, not of {n}; "
                "scale = 'learned' weighs every branch"
            )
        self._check_widths([b.width for b in branches])
        self._check_outputs(branches)
        if self.cross is not None:
            asks, answers = (branches[i].width for i in self.roles(branches))
            self._check_residual("residual", "querying", asks)
            self._check_residual("answer_residual", "answering", answers)

    def _check_outputs(self, branches: Sequence[MixerConfig]) -> None:
        """Only a projection of its own can have a bias and a factor."""
        for branch in branches:
            if self.projection == "joint" and not branch.is_plain_out:
                name = "out_bias" if branch.out_bias else "out_multiplier"
                value = str(getattr(branch, name)).lower()
                raise InputError(
                    f"{name} = {value} of a branch: the branches of "
                    f"combine = '{self.combine}', projection = 'joint' have no output projection "
                    "of their own; use projection = 'separate'"
                )

    def _check_residual(self, field: str, branch: str, width: int) -> None:
        """A stream can be added to the attention's result if it is as wide."""
        assert self.cross is not None
        if getattr(self.cross, field) and width != self.cross.width:
            raise InputError(
                f"cross.{field} = true: needs the {branch} branch's width {width} to equal "
                f"n_heads * head_dim = {self.cross.width}"
            )

    def _check_widths(self, widths: list[int]) -> None:
        if len(set(widths)) == 1:
            return
        if self.projection == "joint" and self.combine in SUMS:
            raise InputError(
                f"projection = 'joint': needs branches of equal width, not {widths}; "
                "change a width, or use projection = 'separate' or combine = 'concat'"
            )
        if self.combine == "merge_attention":
            raise InputError(
                f"combine = 'merge_attention': needs branches of equal width, not {widths}: their "
                "mean asks, and one matrix reads both; change a width"
            )

    def roles(self, branches: Sequence[MixerConfig]) -> tuple[int, int]:
        """Return the places of the asking and the answering branch of an attention.

        Raises:
            InputError: for a cross attention unless one branch is attention, the other recurrent.
        """
        if self.cross is None or self.cross.query is None:
            return 0, 1
        roles = [b.role for b in branches]
        if sorted(roles) != ["attention", "recurrent"]:
            raise InputError(
                f"combine = 'cross_attention': needs one attention and one recurrent branch, "
                f"not {' and '.join(roles)}"
            )
        asks = roles.index(self.cross.query)
        return asks, 1 - asks

    def gate_width(self, branches: Sequence[MixerConfig], d_model: int) -> int:
        """Return the numbers of one token's gate; 0 without one."""
        if self.gate != "channel":
            return int(self.gate == "token")
        return branches[0].width if self.projection == "joint" else d_model

    def n_params(self, branches: Sequence[MixerConfig], d_model: int) -> int:
        """Norms, scales, the combining operator's matrices and biases, the output projection(s)."""
        per_channel = (self.norm != "none") + (self.scale == "learned")
        one_by_one = per_channel * sum(b.width for b in branches) + (self.scale == "scalar")
        matrices = sum(a * b for a, b in self._matrices(branches, d_model))
        biases = d_model * sum(b.out_bias for b in branches)
        return one_by_one + matrices + biases + self.gate_width(branches, d_model)

    def kv_bytes_per_token(self, dtype_bytes: int = 2) -> int:
        """Bytes of one token's entries in the fusion's own cache."""
        return 0 if self.cross is None else self.n_streams * self.cross.kv_width * dtype_bytes

    def kv_bytes(self, n_tokens: int, dtype_bytes: int = 2) -> int:
        """Bytes of the fusion's own cache for one sequence of `n_tokens`."""
        if self.cross is None:
            return 0
        return self.cross.n_held(n_tokens) * self.kv_bytes_per_token(dtype_bytes)

    def model_flops(self, branches: Sequence[MixerConfig], d_model: int, n_tokens: int) -> int:
        """Matrices, and the pairs that the fusion's own attention sees."""
        flops = self._matrix_flops(branches, d_model, n_tokens)
        if self.cross is not None:
            flops += self.cross.model_flops(n_tokens, self.n_streams)
        return flops

    def executed_matmul_flops(
        self, branches: Sequence[MixerConfig], d_model: int, batch: int, n_tokens: int
    ) -> int:
        """Matrices, and the full square of the fusion's own attention."""
        flops = self._matrix_flops(branches, d_model, batch * n_tokens)
        if self.cross is not None:
            flops += batch * self.cross.executed_flops(n_tokens, self.n_streams)
        return flops

    def executed_backward_flops(
        self, branches: Sequence[MixerConfig], d_model: int, batch: int, n_tokens: int
    ) -> int:
        """Two products for each matrix; the fused kernel's own for an attention."""
        flops = 2 * self._matrix_flops(branches, d_model, batch * n_tokens)
        if self.cross is not None:
            flops += batch * self.cross.executed_backward_flops(n_tokens, self.n_streams)
        return flops

    def _matrix_flops(self, branches: Sequence[MixerConfig], d_model: int, n_tokens: int) -> int:
        """Each matrix once per token; the second stream of a merge attention has keys too."""
        again = [] if self.n_streams < 2 else self._matrices(branches, d_model)[1:2]
        return matmul_flops(n_tokens, *self._matrices(branches, d_model), *again)

    def _matrices(self, branches: Sequence[MixerConfig], d_model: int) -> list[tuple[int, int]]:
        """Shapes (in, out) of every matrix that the fusion owns."""
        widths = [b.width for b in branches]
        if self.cross is not None:
            asks, answers = (branches[i].width for i in self.roles(branches))
            c = self.cross
            return [(asks, c.width), (answers, c.kv_width), (c.width, d_model)]
        if self.combine == "concat":
            return [(sum(widths), d_model)]
        own = [(d_model, self.gate_width(branches, d_model))] if self.combine == "gate" else []
        return own + [(w, d_model) for w in (widths[:1] if self.projection == "joint" else widths)]

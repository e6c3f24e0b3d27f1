"""The one model: embedding, the blocks that a spec declares, norm, head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor, nn

from braidlm.arch import Spec
from braidlm.blocks import Block, Stream
from braidlm.meta import MetaTokens
from braidlm.mixers.norm import RMSNorm
from braidlm.mixers.room import reserve
from braidlm.mixers.shorten import shorten
from braidlm.mixers.untouched import has_hooks, is_untouched, weight_of
from braidlm.ops import dispatch
from braidlm.ops.add_norm import pays
from braidlm.ops.loss import linear_cross_entropy
from braidlm.ops.rows import Owed
from braidlm.ops.scaled import scaled
from braidlm.segments import Segments


class Output(NamedTuple):
    """What a forward pass gives."""

    hidden: Tensor
    """(B, T, d_model), after the final norm: what `HybridLM.head` reads."""
    state: tuple[Any, ...] | None
    """One state per sublayer, each with one entry per document; None if not asked for."""
    aux: dict[str, Tensor]
    """What is not the answer and was asked for, named by sublayer: telemetry; what routers tell,
    `blocks.3.load` (n_experts,) int64, tokens of each expert, and `blocks.3.router_loss` (), nats
    per token (see `mixers.router.Router.aux`)."""


class HybridLM(nn.Module):
    """Any hybrid language model, as its spec declares it.

    ``model(tokens, segments, state)`` continues from `state`; nothing is remembered inside. The
    weights are drawn from torch's global generator: call ``torch.manual_seed`` first.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.embedding_multiplier = spec.embedding_multiplier
        self.logits_scale = spec.logits_scale
        self.embedding = nn.Embedding(spec.vocab_size, spec.d_model)
        n_meta = spec.n_meta_tokens
        self.meta = MetaTokens(n_meta, spec.d_model) if n_meta else None
        self.blocks = nn.ModuleList()
        for s in spec.sublayers:
            first = None if s.owns_weights else self.blocks[s.owner]
            self.blocks.append(Block(s, spec, first))  # pyright: ignore[reportArgumentType]
        self.norm = RMSNorm(spec.d_model, spec.norm_eps, offset=spec.norm_offset)
        self.lm_head = nn.Linear(spec.d_model, spec.vocab_size, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew, as the spec's initialisation says.

        A model that was built on the meta device is complete after ``to_empty`` and this.
        """
        spec = self.spec
        hidden_std = spec.hidden_init_std
        out_std = hidden_std * spec.n_layers**-0.5 if spec.depth_scaled_init else hidden_std
        nn.init.normal_(self.embedding.weight, std=spec.init_std)
        if self.meta is not None:
            self.meta.reset_parameters(spec.init_std)
        for block in self.blocks:
            block.reset_parameters(hidden_std, out_std)  # pyright: ignore[reportCallIssue]
        self.norm.reset_parameters()
        if spec.tie_embeddings:  # `to_empty` gives the head a weight of its own
            self.lm_head.weight = self.embedding.weight
        else:
            nn.init.normal_(self.lm_head.weight, std=spec.init_std)

    def forward(
        self,
        tokens: Tensor,
        segments: Segments | None = None,
        state: Sequence[Any] | None = None,
        return_state: bool = True,
        telemetry: bool = False,
        with_aux: bool = False,
    ) -> Output:
        """Run the model over new tokens.

        Args:
            tokens: (B, T) int64.
            segments: where documents lie in the rows; None: each row is one document.
            state: what an earlier call returned, one entry per document of this call; None: the
                documents begin here, with the spec's meta tokens before them. Under
                ``no_grad`` its caches may be written in place: use the returned state from then on.
            return_state: whether the new state is wanted; training does without.
            telemetry: whether `aux` tells of the layers (see `docs/training.md`), at the price of
                computing most of them again; only for calls without `state`.
            with_aux: whether `aux` tells what training needs to know of routers.

        Returns:
            The hidden states (B, T, d_model) and the new state.

        Raises:
            ValueError: telemetry of a continued call.
        """
        if telemetry and state is not None:
            raise ValueError("telemetry = True: needs state = None, a call that begins documents")
        meta = self.meta if state is None else None
        stream, segments, places = self._begin(tokens, segments, meta)
        trains = self.training and not return_state and torch.is_grad_enabled()
        may_owe = not telemetry and (trains or dispatch.is_plain(stream.hidden))
        # A hook on a block reads the stream, in which nothing may be due then.
        may_owe = may_owe and pays(stream.hidden) and not any(map(has_hooks, self.blocks))
        stream = stream._replace(aux={} if with_aux else None, may_owe=may_owe)
        before = [None] * len(self.blocks) if state is None else state
        after, aux = [], {}
        for index, (block, old) in enumerate(zip(self.blocks, before, strict=True)):
            if telemetry:
                told = block.telemetry(stream, segments)  # pyright: ignore[reportCallIssue]
                aux |= {f"blocks.{index}.{name}": value for name, value in told.items()}
            stream, new = block(stream, segments, old, return_state)
            aux |= {f"blocks.{index}.{name}": value for name, value in (stream.aux or {}).items()}
            after.append(new)
        is_normed_here = meta is None and is_untouched(self.norm)
        if isinstance(stream.due, Owed) and is_normed_here:
            normed = stream.read_by(self.norm).normed
            assert normed is not None
            hidden = normed.view_as(stream.hidden)
        elif isinstance(stream.due, Tensor) and is_normed_here:
            hidden = self.norm.after_sum(stream.hidden, stream.due)[1]
        else:
            hidden = stream.settled().hidden
            hidden = self.norm(hidden if meta is None else meta.without(hidden, places))
        return Output(hidden, tuple(after) if return_state else None, aux)

    def begin(self, tokens: Tensor, segments: Segments | None) -> tuple[Stream, Segments | None]:
        """Return what the first block reads of documents that begin here.

        Where the spec has meta tokens, rows are longer by them (see `meta.MetaTokens.before`), and
        the segments are those of the longer rows.
        """
        stream, segments, _ = self._begin(tokens, segments, self.meta)
        return stream, segments

    def _begin(
        self, tokens: Tensor, segments: Segments | None, meta: MetaTokens | None
    ) -> tuple[Stream, Segments | None, Tensor | None]:
        embedded, places = scaled(self.embedding(tokens), self.embedding_multiplier), None
        if meta is not None:
            embedded, segments, places = meta.before(embedded, segments)
        return Stream(embedded, embedded), segments, places

    def reserve(self, state: Sequence[Any], n_tokens: int) -> tuple[Any, ...]:
        """Return a state with room for `n_tokens` more per document, see `ops.attention.reserve`.

        A step from it has one shape and asks the host nothing: what a compiled graph needs.
        """
        pairs = zip(self.blocks, state, strict=True)
        return tuple(reserve(block, old, n_tokens) for block, old in pairs)

    def shorten(self, state: Sequence[Any], n_tokens: int) -> tuple[Any, ...]:
        """Return a state whose caches hold the last `n_tokens` of each document at most.

        Under a window, and in recurrent mixers, all stays as it is. Positions are counted from the
        oldest token that is left: by RoPE and without positions distances alone matter.
        """
        pairs = zip(self.blocks, state, strict=True)
        return tuple(shorten(block, old, n_tokens) for block, old in pairs)

    def head(self, hidden: Tensor) -> Tensor:
        """Return logits (..., vocab_size) of hidden states (..., d_model)."""
        return self.lm_head(self._for_head(hidden))

    @overload
    def loss(
        self,
        tokens: Tensor,
        targets: Tensor,
        segments: Segments | None = None,
        reduction: Literal["mean", "sum", "none"] = "mean",
        with_aux: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def loss(
        self,
        tokens: Tensor,
        targets: Tensor,
        segments: Segments | None = None,
        reduction: Literal["mean", "sum", "none"] = "mean",
        *,
        with_aux: Literal[True],
    ) -> tuple[Tensor, dict[str, Tensor]]: ...

    def loss(
        self,
        tokens: Tensor,
        targets: Tensor,
        segments: Segments | None = None,
        reduction: Literal["mean", "sum", "none"] = "mean",
        with_aux: bool = False,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Return the cross-entropy of `targets` (B, T) in nats; targets of -100 do not count.

        Full logits are never held. With ``reduction="none"`` the result is (B, T), zero where the
        target does not count. With `with_aux` also `Output.aux`: what routers lose is not in the
        cross-entropy, and training adds it.
        """
        out = self(tokens, segments, return_state=False, with_aux=with_aux)
        loss = self._cross_entropy(out, targets, reduction)
        return (loss, out.aux) if with_aux else loss

    def carried_loss(
        self,
        tokens: Tensor,
        targets: Tensor,
        segments: Segments | None,
        state: Sequence[Any] | None,
        reduction: Literal["mean", "sum", "none"] = "mean",
        with_aux: bool = False,
    ) -> tuple[Tensor, tuple[Any, ...], dict[str, Tensor]]:
        """Return the loss of documents that go on, the state behind them, and `Output.aux`.

        Arguments as for `loss`, and the state as for `forward`.
        """
        out = self(tokens, segments, state, with_aux=with_aux)
        return self._cross_entropy(out, targets, reduction), out.state, out.aux

    def _cross_entropy(
        self, out: Output, targets: Tensor, reduction: Literal["mean", "sum", "none"]
    ) -> Tensor:
        hidden, weight = self._for_head(out.hidden), weight_of(self.lm_head, "lm_head")
        return linear_cross_entropy(hidden, weight, targets, reduction=reduction)

    def _for_head(self, hidden: Tensor) -> Tensor:
        """Scale what the head reads: cheaper than scaling the logits, which are wider."""
        return scaled(hidden, self.logits_scale)

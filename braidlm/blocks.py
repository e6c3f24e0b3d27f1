"""The residual sublayer: hidden + mix(norm(hidden)), and every other wiring of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from braidlm import mixers
from braidlm.adapters import Adapters
from braidlm.arch import Spec, Sublayer
from braidlm.mixers.keys import shares_keys
from braidlm.mixers.norm import RMSNorm
from braidlm.mixers.room import reserve
from braidlm.mixers.shorten import shorten
from braidlm.mixers.telemetry import telemetry
from braidlm.mixers.untouched import is_untouched
from braidlm.ops import rows
from braidlm.ops.attention import Lent
from braidlm.ops.dispatch import needs_grad
from braidlm.ops.rows import Ending, Owed, Read
from braidlm.ops.scaled import scaled
from braidlm.parallel import Parallel
from braidlm.segments import Segments


class Stream(NamedTuple):
    """What flows between sublayers."""

    hidden: Tensor
    """(B, T, d_model): the residual stream."""
    embedding: Tensor
    """(B, T, d_model): the embedded tokens, for sublayers that read them again."""
    handed: Tensor | None = None
    """(B, T, d_model): what the last sublayer hands to the next one beside the stream."""
    keys: Mapping[str, Lent] = {}
    """Keys and values of this call that later sublayers have too, by the letter that made them."""
    aux: dict[str, Tensor] | None = None
    """What the router of the sublayer that made this tells, {} without one; None: nobody asks."""
    due: Tensor | Owed | None = None
    """(B, T, d_model): what the last sublayer left to the next one to add to `hidden`, or that in
    shares."""
    may_owe: bool = False
    """Whether a sublayer may leave its sum to the next one, whose norm makes it on the way."""

    def settled(self) -> Stream:
        """Return the stream with what is due added."""
        if self.due is None:
            return self
        if isinstance(self.due, Owed):
            return self._replace(hidden=self.due.added_to(self.hidden), due=None)
        return self._replace(hidden=self.hidden + self.due, due=None)

    def read_by(self, norm: RMSNorm) -> Read:
        """Return the rows that a norm reads, with what is due; normed where that was in shares."""
        due = self.due
        hidden = self.hidden if isinstance(due, Owed) else self.settled().hidden
        read = Read(hidden.flatten(0, 1), True, norm.weight, norm.offset, norm.eps)
        return rows.settled(read, due, norm.weight.dtype) if isinstance(due, Owed) else read


class Single(nn.Module):
    """One mixer and its output projection, if it has none of its own."""

    def __init__(self, sublayer: Sublayer, spec: Spec) -> None:
        super().__init__()
        (config,) = sublayer.branches
        self.factors = (config.in_multiplier, config.out_multiplier)
        width = sublayer.input_width(spec.d_model)
        lends_as = spec.lends_as(sublayer.symbol)
        self.mixer = mixers.build(config, width, spec.norm_eps, spec.norm_offset, lends_as)
        self.shares_keys = shares_keys(self.mixer)
        # What reads x by a product alone reads it in the product's dtype.
        is_first = getattr(self.mixer, "projects_first", False)
        self.projects_first = is_first and config.in_multiplier == 1.0
        self.out_proj = None
        if not config.has_own_output:
            self.out_proj = nn.Linear(config.width, spec.d_model, bias=config.out_bias)

    def reset_parameters(self, std: float, out_std: float) -> None:
        """Draw the initial weights."""
        if self.out_proj is None:
            self.mixer.reset_parameters(std, out_std)  # pyright: ignore[reportCallIssue]
            return
        self.mixer.reset_parameters(std)
        nn.init.normal_(self.out_proj.weight, std=out_std)
        if self.out_proj.bias is not None:
            nn.init.zeros_(self.out_proj.bias)

    def reserve(self, state: Any, n_tokens: int) -> Any:
        """Return the mixer's state with room for `n_tokens` more per document."""
        return reserve(self.mixer, state, n_tokens)

    def shorten(self, state: Any, n_tokens: int) -> Any:
        """Return the mixer's state with the last `n_tokens` of each document at most."""
        return shorten(self.mixer, state, n_tokens)

    def telemetry(
        self, x: Tensor, segments: Segments | None, keys: dict[str, Lent] | None = None
    ) -> dict[str, Tensor]:
        """Tell what the mixer tells; of keys there is nothing to tell."""
        return telemetry(self.mixer, scaled(x, self.factors[0]), segments)

    def reads_rows(self, is_step: bool, state: Any) -> bool:
        """Whether `from_rows` can go on from this state; `is_step`: one token of each document."""
        asked = getattr(self.mixer, "reads_rows", None)
        is_known = self.out_proj is not None and self.factors[0] == 1.0
        return is_known and asked is not None and asked(is_step, state)

    def from_rows(
        self, read: Read, state: Any, factor: float, may_owe: bool
    ) -> tuple[Tensor | Owed, Any]:
        """Add the sublayer's output for each row, times `factor`, to what it reads.

        Where it `may_owe`, the output can be left to be added.
        """
        assert self.out_proj is not None
        u, state = self.mixer.from_rows(read, state)  # pyright: ignore[reportCallIssue]
        weight, bias, factor = self.out_proj.weight, self.out_proj.bias, factor * self.factors[1]
        if may_owe and rows.owes(u, weight, bias):
            return rows.product_owed(u, weight, factor), state
        ending = Ending(residual=read.x, factor=factor)
        return rows.product(u, weight, bias, ending, dtype=read.x.dtype), state

    def forward(
        self,
        x: Tensor,
        segments: Segments | None,
        state: Any,
        return_state: bool,
        aux: dict[str, Tensor] | None = None,
        adapters: Adapters | None = None,
        keys: dict[str, Lent] | None = None,
    ) -> tuple[Tensor, Any]:
        """Map x (B, T, input width) to the sublayer's output (B, T, d_model).

        `aux` is filled by a mixer with a router, and given only to such a one; `adapters` are those
        of this use; `keys` is what is lent in this call, for one that borrows or lends.
        """
        x = scaled(x, self.factors[0])
        if self._keeps_less(x, adapters):
            y = self.mixer.through(x, self.out_proj.weight)  # pyright: ignore
            if y is not None:
                return scaled(y, self.factors[1]), None
        if adapters is not None:
            p = self.mixer.in_proj(x) + adapters(x)  # pyright: ignore[reportCallIssue]
            asked = (keys,) if self.shares_keys else ()
            u, state = self.mixer.projected(p, segments, state, return_state, *asked)  # pyright: ignore
        else:
            asked = tuple(given for given in (aux, keys) if given is not None)
            u, state = self.mixer(x, segments, state, return_state, *asked)
        return scaled(u if self.out_proj is None else self.out_proj(u), self.factors[1]), state

    def _keeps_less(self, x: Tensor, adapters: Adapters | None) -> bool:
        """Whether a mixer and its product as one operator keep less for gradients, or might."""
        if adapters is not None or not (x.is_cuda and hasattr(self.mixer, "through")):
            return False
        is_bare = self.out_proj is not None and self.out_proj.bias is None
        pays = is_bare and needs_grad(x) and not torch.compiler.is_compiling()
        return pays and is_untouched(*self.children())


class Block(nn.Module):
    """One residual sublayer. A later use of a shared letter has norm and mix of its first use."""

    def __init__(self, sublayer: Sublayer, spec: Spec, first: Block | None = None) -> None:
        super().__init__()
        wiring, d_model = sublayer.wiring, spec.d_model
        self.is_post_normed = wiring.norm_position == "post"
        self.input, self.hands_on = wiring.input, wiring.output == "next_input"
        self.residual_multiplier = spec.residual_multiplier
        self.owns_weights = first is None
        if first is None:
            width = sublayer.norm_width(d_model)
            self.norm = RMSNorm(width, spec.norm_eps, offset=spec.norm_offset)
            self.mix = (Parallel if sublayer.is_parallel else Single)(sublayer, spec)
        else:
            self.norm, self.mix = first.norm, first.mix
        self.has_router = not sublayer.is_parallel and isinstance(self.mix.mixer, mixers.MoE)
        rank, widths = wiring.lora_rank, sublayer.lora_widths
        self.adapters = Adapters(sublayer.input_width(d_model), rank, widths) if widths else None
        has_projection = wiring.use_projection
        self.use_proj = nn.Linear(d_model, d_model, bias=False) if has_projection else None

    def reset_parameters(self, std: float, out_std: float) -> None:
        """Draw the initial weights; those of a shared letter at its first use."""
        if self.owns_weights:
            self.norm.reset_parameters()
            self.mix.reset_parameters(std, out_std)
        if self.adapters is not None:
            self.adapters.reset_parameters(std)
        if self.use_proj is not None:
            nn.init.normal_(self.use_proj.weight, std=out_std)

    def reserve(self, state: Any, n_tokens: int) -> Any:
        """Return the sublayer's state with room for `n_tokens` more per document."""
        return reserve(self.mix, state, n_tokens)

    def shorten(self, state: Any, n_tokens: int) -> Any:
        """Return the sublayer's state with the last `n_tokens` of each document at most."""
        return shorten(self.mix, state, n_tokens)

    def telemetry(self, stream: Stream, segments: Segments | None) -> dict[str, Tensor]:
        """Tell what the sublayer tells of this stream."""
        asked = {"keys": dict(stream.keys)} if self.mix.shares_keys else {}
        return telemetry(self.mix, self.read(stream), segments, **asked)

    def forward(
        self, stream: Stream, segments: Segments | None, state: Any, return_state: bool
    ) -> tuple[Stream, Any]:
        """Return the stream after this sublayer and the sublayer's new state."""
        if rows.pays(stream.hidden) and self._reads_rows(stream, segments, state):
            return self._from_rows(stream, state)
        if stream.may_owe and self.may_owe and is_untouched(*self.children()):
            return self._owing(stream, segments, state, return_state)
        stream = stream.settled()
        aux: dict[str, Tensor] | None = None if stream.aux is None else {}
        asked = {"aux": aux} if self.has_router else {}
        asked |= {} if self.adapters is None else {"adapters": self.adapters}
        if self.mix.shares_keys:  # a copy: what is computed again must not change what was given
            keys = dict(stream.keys)
            asked, stream = {**asked, "keys": keys}, stream._replace(keys=keys)
        y, state = self.mix(self.read(stream), segments, state, return_state, **asked)
        if self.hands_on:
            return stream._replace(handed=self._made(y), aux=aux), state
        hidden = stream.hidden + scaled(self._made(y), self.residual_multiplier)
        return stream._replace(hidden=hidden, handed=None, aux=aux), state

    @property
    def may_owe(self) -> bool:
        """Whether this sublayer reads the stream by its norm alone and adds to it alone."""
        is_pre_normed = not self.is_post_normed and self.norm.n_groups == 1
        return self._is_closed and is_pre_normed and self.use_proj is None

    def _owing(
        self, stream: Stream, segments: Segments | None, state: Any, return_state: bool
    ) -> tuple[Stream, Any]:
        """`forward` that adds what the last sublayer left, and leaves its own sum to the next."""
        stream = stream.settled() if isinstance(stream.due, Owed) else stream
        hidden, norm, due = stream.hidden, self.norm, stream.due
        if isinstance(due, Tensor):
            reads = due.dtype if self.mix.projects_first else None
            hidden, x = norm.after_sum(hidden, due, reads)
        else:
            x = norm(hidden)
        y, state = self.mix(x, segments, state, return_state)
        due = scaled(y, self.residual_multiplier)
        aux = None if stream.aux is None else {}
        return stream._replace(hidden=hidden, handed=None, aux=aux, due=due), state

    def _reads_rows(self, stream: Stream, segments: Segments | None, state: Any) -> bool:
        is_bare = stream.handed is None and stream.aux is None
        if not (self.may_owe and is_bare):
            return False
        is_step = rows.is_step(stream.hidden, segments)
        reads = self.mix.reads_rows(is_step, state)  # pyright: ignore[reportCallIssue]
        return reads and is_untouched(*self.children())

    def _from_rows(self, stream: Stream, state: Any) -> tuple[Stream, Any]:
        """Take each token by itself, in few launches, see `ops.rows`."""
        read, like = stream.read_by(self.norm), stream.hidden
        found, state = self.mix.from_rows(read, state, self.residual_multiplier, stream.may_owe)  # pyright: ignore[reportCallIssue]
        if isinstance(found, Owed):
            return stream._replace(hidden=read.x.view_as(like), due=found), state
        return stream._replace(hidden=found.view_as(like), due=None), state

    @property
    def is_plain(self) -> bool:
        """Whether `added` is all that `forward` does in training: only hidden comes and goes."""
        return isinstance(self.mix, Single) and self._is_closed

    @property
    def _is_closed(self) -> bool:
        is_bare = self.adapters is None and not self.has_router and not self.mix.shares_keys
        return is_bare and not self.hands_on and self.input == "hidden"

    def added(self, hidden: Tensor, segments: Segments | None) -> Tensor:
        """Return (B, T, d_model), `hidden` and what this sublayer adds; no state is made."""
        x = hidden if self.is_post_normed else self.norm(hidden)
        y = self.mix(x, segments, None, False)[0]
        return hidden + scaled(self._made(y), self.residual_multiplier)

    def _made(self, y: Tensor) -> Tensor:
        y = self.norm(y) if self.is_post_normed else y
        return y if self.use_proj is None else self.use_proj(y)

    def read(self, stream: Stream) -> Tensor:
        """What the branches read: (B, T, input width), normed unless the norm comes after."""
        hidden, handed = stream.hidden, stream.handed
        if handed is not None:
            hidden = handed if self.input == "handed" else hidden + handed
        if self.input == "hidden+embedding":
            hidden = torch.cat((hidden, stream.embedding), dim=-1)
        return hidden if self.is_post_normed else self.norm(hidden)

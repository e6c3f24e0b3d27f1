"""What the stages lessen, each in the place of a model's own loss.

With y what an attention of the teacher gives, x what it reads, h final hidden states, p
probabilities of the next token, ' for the student and E the mean over tokens::

    mixers   mean over layers of  E |y'(x) - y(x)|^2 / E |y|^2      x is the teacher's own
    hidden   E |h' - h|^2 / E |h|^2
    logits   E sum_v p_v (ln p_v - ln p'_v)                          nats per token
    text     -E ln p'(next token)                                    nats per token

The first two are shares: 0 is the teacher, 1 is what zeros would give. The E below a line is over
the micro-batch. Of a parallel sublayer each new branch is compared by itself, without its factor:
it learns what the attention gives, while the sum stays what it is.

The teacher has no gradients. In `mixers` each layer's graph is gone before the next layer is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from braidlm.arch import Spec
from braidlm.blocks import Single
from braidlm.convert.copying import new_parts
from braidlm.convert.target import Change
from braidlm.model import HybridLM
from braidlm.ops.divergence import linear_divergence
from braidlm.ops.scaled import scaled
from braidlm.parallel import Parallel
from braidlm.segments import Segments
from braidlm.train.step import IGNORED

Tell = Callable[[Change, Tensor, Segments | None, Tensor], None]
"""Called with a change, x (B, T, d), where documents lie, and y (B, T, d)."""
Kind = Literal["mixers", "hidden", "logits", "text"]


class Student(HybridLM):
    """A model whose loss is its distance from a teacher; its weights are named as ever.

    Args:
        spec: of the student.
        teacher: on the device of the training; None for the loss of the text.
        changes: where the two differ.
        kind: what is lessened.
    """

    def __init__(
        self, spec: Spec, teacher: HybridLM | None, changes: Sequence[Change], kind: Kind
    ) -> None:
        super().__init__(spec)
        self._teacher = (teacher,)  # in a tuple: no part of the weights
        self._changes, self._kind = tuple(changes), kind

    @property
    def teacher(self) -> HybridLM:
        """The model that is followed."""
        assert self._teacher[0] is not None
        return self._teacher[0]

    def loss(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        tokens: Tensor,
        targets: Tensor,
        segments: Segments | None = None,
        reduction: Literal["mean", "sum", "none"] = "mean",
        with_aux: bool = False,
    ) -> Any:
        """Return the objective over tokens that have a target: the "mean" over them or the "sum".

        Raises:
            ValueError: a distance for each token by itself.
        """
        if self._kind == "text":
            return super().loss(tokens, targets, segments, reduction, with_aux=with_aux)  # pyright: ignore
        if reduction == "none":
            raise ValueError("reduction = 'none': a distance is over all tokens: mean or sum")
        counts = targets != IGNORED
        aux: dict[str, Tensor] = {}
        if self._kind == "mixers":
            total = self._of_mixers(tokens, counts, segments)
        else:
            out = self(tokens, segments, return_state=False, with_aux=with_aux)
            with torch.no_grad():
                theirs = self.teacher(tokens, segments, return_state=False).hidden
            total, aux = self._of_hidden(out.hidden, theirs, counts), out.aux
        total = total if reduction == "sum" else total / counts.sum().clamp_min(1)
        return (total, aux) if with_aux else total

    def _of_hidden(self, own: Tensor, theirs: Tensor, counts: Tensor) -> Tensor:
        if self._kind == "hidden":
            return unexplained(own, theirs, counts)
        return linear_divergence(
            self._for_head(own),
            self.lm_head.weight,
            self.teacher._for_head(theirs),
            self.teacher.lm_head.weight,
            counts,
        )

    def _of_mixers(self, tokens: Tensor, counts: Tensor, segments: Segments | None) -> Tensor:
        total = torch.zeros((), device=tokens.device)
        asks = torch.is_grad_enabled()

        def compare(change: Change, x: Tensor, where: Segments | None, y: Tensor) -> None:
            nonlocal total
            with torch.set_grad_enabled(asks):
                found = [unexplained(v, y, counts) for v in voices(self, change, x, where)]
                share = sum(found, total.new_zeros(())) / len(found) / len(self._changes)
                total = total + (settled(share, self.blocks[change.index]) if asks else share)

        with torch.no_grad(), watched(self.teacher, self._changes, compare):
            self.teacher(tokens, segments, return_state=False)
        return total


@contextlib.contextmanager
def watched(teacher: HybridLM, changes: Sequence[Change], tell: Tell) -> Iterator[None]:
    """Tell of what the attentions that are replaced read and give, as soon as they gave it."""
    hooks = []
    for change in changes:

        def hook(_: nn.Module, given: Any, result: Any, change: Change = change) -> None:
            tell(change, given[0], given[1], result[0])

        hooks.append(teacher.blocks[change.index].mix.register_forward_hook(hook))  # pyright: ignore
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def voices(student: HybridLM, change: Change, x: Tensor, segments: Segments | None) -> list[Tensor]:
    """Return what each new mixer makes of x (B, T, d): (B, T, d), without a branch's factor."""
    mix = student.blocks[change.index].mix
    if isinstance(mix, Single):
        return [mix(x, segments, None, False)[0]]
    assert isinstance(mix, Parallel)
    found = []
    for branch in change.new:
        mixer, out = new_parts(mix, branch)
        u, _ = mixer(scaled(x, mix.in_multipliers[branch]), segments, None, False)
        found.append(scaled(out(u), mix.combine.out_multipliers[branch]))  # pyright: ignore
    return found


def unexplained(own: Tensor, theirs: Tensor, counts: Tensor) -> Tensor:
    """Return the sum over counted tokens (B, T) of |own - theirs|^2 over the mean of |theirs|^2."""
    own, theirs = own[counts].float(), theirs[counts].float()
    size = theirs.square().sum() / max(len(theirs), 1)
    return (own - theirs).square().sum() / size.clamp_min(1e-20)


class _Known(torch.autograd.Function):
    """A number whose gradients are there already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *weights: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        return None, None, *(outer[0] * gradient for gradient in ctx.gradients)


def settled(value: Tensor, module: nn.Module) -> Tensor:
    """Return () `value` with its gradients by the module's weights, and without its graph."""
    if not value.requires_grad:
        return value
    weights = [p for p in module.parameters() if p.requires_grad]
    with torch.autocast(value.device.type, enabled=False):
        gradients = torch.autograd.grad(value, weights, allow_unused=True)
    pairs = [(p, g) for p, g in zip(weights, gradients, strict=True) if g is not None]
    return _Known.apply(value.detach(), [g for _, g in pairs], *(p for p, _ in pairs))  # pyright: ignore

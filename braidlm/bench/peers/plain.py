"""A training step as a user of another library writes it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from braidlm.bench.contender import Call, Setting
from braidlm.bench.ours import told_precision
from braidlm.train.precision import resolve_precision


class PlainTraining:
    """Autocast, loss, backward, clipping to norm 1 and fused AdamW; the loss is read each time.

    Args:
        model: on its device.
        setting: what is measured.
        loss: of rows (B, T).
    """

    def __init__(
        self, model: nn.Module, setting: Setting, loss: Callable[[Tensor], Tensor]
    ) -> None:
        self._precision = resolve_precision(setting.training_dtype, setting.device)
        self.precision = told_precision(self._precision.name)
        self._model, self._loss, self._device = model, loss, setting.device
        self._limit = setting.recipe.train.grad_clip or float("inf")
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9, fused=True)

    def update(self, rows: Tensor) -> Call:
        """Return one step on rows (B, T), which the host holds as ours does."""

        def call() -> None:
            tokens = rows.to(self._device)
            self._optimizer.zero_grad()
            with self._precision.autocast():
                loss = self._loss(tokens)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(self._model.parameters(), self._limit)
            self._optimizer.step()
            torch.stack((loss.detach().float(), norm.float())).tolist()

        return call

"""Declaration of language modelling on held-out text."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from braidlm.arch.tasks.base import RESULT_NAME, ModelTask


class LMTask(ModelTask):
    """Language modelling on held-out documents."""

    kind: Literal["lm"] = "lm"
    """The task's kind."""
    name: str = Field(default="held-out", pattern=RESULT_NAME)
    """Name of the result."""
    source: str = "text"
    """Name of the text source whose held-out documents are read."""
    n_documents: int = Field(default=100, gt=0)
    """Documents at most."""
    seq_len: int = Field(default=256, gt=1)
    """Longest context; a longer document is cut into pieces that are scored apart."""
    bins: int = Field(default=8, gt=0)
    """Bins of the loss by position."""

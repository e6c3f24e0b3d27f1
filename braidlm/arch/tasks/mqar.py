"""Declaration of multi-query associative recall."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from braidlm.arch.tasks.base import RESULT_NAME, ModelTask


class MQARTask(ModelTask):
    """Recall of values by their keys, exactly and by degrees."""

    kind: Literal["mqar"] = "mqar"
    """The task's kind."""
    name: str = Field(default="recall", pattern=RESULT_NAME)
    """Name of the result."""
    source: str = "mqar"
    """Name of the MQAR source whose distribution is tested, on other items."""
    n_pairs: tuple[int, ...] = ()
    """Pairs to test; empty: those of the source."""
    length: int = Field(default=0, ge=0)
    """Tokens of an item; 0: that of the source."""
    n_items: int = Field(default=200, gt=0)
    """Items per number of pairs."""

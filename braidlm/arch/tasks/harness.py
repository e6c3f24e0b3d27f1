"""Declaration of tasks that lm-evaluation-harness has."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from braidlm.arch.tasks.base import RESULT_NAME, ModelTask

PREFIX = "lm_eval:"
"""What stands before any name of the harness where tasks are named."""


class HarnessTask(ModelTask):
    """A task or a group of tasks of lm-evaluation-harness, as its own files define it.

    Source: Biderman et al. 2024 (arXiv 2405.14782).
    """

    kind: Literal["lm_eval"] = "lm_eval"
    """The task's kind."""
    name: str = Field(default="hellaswag", pattern=RESULT_NAME)
    """Name of the result."""
    task: str = Field(default="hellaswag", min_length=1)
    """What the harness calls it, or a file (.yaml) in its form; default: the name of the result."""
    path: str = ""
    """A folder of data files that are read instead of the Hugging Face Hub, `TASK/SPLIT.jsonl` (or
    .gz, .xz, .zst) with the fields that the harness reads; empty: the Hub."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Worked examples before a question; default: as the harness's file says, else 0."""
    n_items: int = Field(default=1_000_000, gt=0)
    """Documents of each task at most, the first ones, as the harness limits them."""
    add_bos: bool = True
    """Whether bos opens every text, as in training."""
    max_length: int = Field(default=0, ge=0)
    """Tokens of context and continuation at most; longer contexts are cut from the left. 0: nothing
    is cut, at whatever length the model was trained."""

    @model_validator(mode="before")
    @classmethod
    def _named_after_the_task(cls, data: Any) -> Any:
        if not isinstance(data, dict) or ("name" in data) == ("task" in data):
            return data
        return {"name": data.get("task"), "task": data.get("name"), **data}

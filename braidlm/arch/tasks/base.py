"""What the declarations of tasks share."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.config import Config
from braidlm.arch.sources import HUB, PathText
from braidlm.arch.tasks.token_filter import TokenFilter

RESULT_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""What a task may be called: its name becomes a part of a file name."""


def check_levels(lengths: tuple[int, ...], depths: tuple[float, ...]) -> None:
    """Refuse tokens below 1, depths that are no percentages, and whatever stands there twice.

    Raises:
        ValueError: names the field and its values.
    """
    for field, values in (("lengths", lengths), ("depths", depths)):
        if len(set(values)) < len(values):
            raise ValueError(f"{field} = {list(values)}: every value may stand there once")
    if any(length < 1 for length in lengths):
        raise ValueError(f"lengths = {list(lengths)}: must be greater than 0")
    if not all(0 <= depth <= 100 for depth in depths):
        raise ValueError(f"depths = {list(depths)}: must be from 0 to 100")


class ModelTask(Config):
    """Fields of every task: how the model reads."""

    token_filter: TokenFilter | None = None
    """Which tokens the long memories of Mamba layers skip in texts beyond the trained length.
    Default: none."""


class ContextTask(ModelTask):
    """Fields of a task that asks about a long text, which may be cut and may be read twice."""

    lengths: tuple[int, ...] = ()
    """Tokens at most of bos, prompt and answer, by the model's own tokenizer: the text is cut to
    fit, question and answer stay whole. Each length is reported apart. Empty: nothing is cut."""
    reads: Literal[1, 2] = 1
    """2: the text stands in the prompt twice. Source: Arora et al. 2024 (arXiv 2407.05483)."""
    question_first: bool = False
    """Whether the question stands before the text too, so that a model knows what to keep."""
    n_items: int = Field(default=5000, gt=0)
    """Items at most for each length, chosen by the hash of their names."""

    @model_validator(mode="after")
    def _lengths_differ(self) -> Self:
        for length in self.lengths:
            if length < 2:
                raise ValueError(f"lengths: {length} must be at least 2 tokens")
        if len(set(self.lengths)) < len(self.lengths):
            raise ValueError(f"lengths = {list(self.lengths)}: every value may stand there once")
        return self


class DataTask(ContextTask):
    """Fields of a task that asks about a data set of real documents."""

    path: PathText
    """A file or folder (.jsonl, also .gz, .xz and .zst; .parquet), or "hf:" and a name of the
    Hugging Face Hub; default: where the data set was published."""
    files: tuple[str, ...] = ()
    """Globs: which files of a folder are read. Default: those whose name has the data set's name as
    a word and whose records have its fields; all files where no name has one."""
    config: str = ""
    """"hf:" alone: the data set's configuration; empty: its only or default one."""
    split: str = Field(default="validation", min_length=1)
    """"hf:" alone: the split."""
    revision: str = ""
    """"hf:" alone: commit, branch or tag; empty: the newest."""

    @model_validator(mode="after")
    def _files_are_of_a_folder(self) -> Self:
        if self.files and self.path.startswith(HUB):
            raise ValueError(f"files = {list(self.files)}: '{self.path}' takes config and split")
        return self

"""Declaration of the loss by position in long documents."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.sources import TextSource
from braidlm.arch.tasks.base import RESULT_NAME, ModelTask


class LongTextTask(ModelTask):
    """Loss by position in long documents, such as books, also beyond the trained length.

    Source: Bae et al. 2025 (arXiv 2510.04800), for 30 documents and bins of 1024 tokens.
    """

    kind: Literal["longtext"] = "longtext"
    """The task's kind."""
    name: str = Field(default="longtext", pattern=RESULT_NAME)
    """Name of the result."""
    path: str = ""
    """Documents: a file or folder (.txt, .jsonl, also packed; .parquet), "python-docs" or
    "hf:NAME"; empty: the held-out documents of the recipe's first text source."""
    files: tuple[str, ...] = ()
    """Globs: which files of a folder are taken, as in a text source."""
    config: str = ""
    """"hf:" alone: the data set's configuration."""
    split: str = Field(default="train", min_length=1)
    """"hf:" alone: the data set's split."""
    field: str = "text"
    """Key or column of the text."""
    lengths: tuple[int, ...] = Field(default=(4096,), min_length=1)
    """Tokens of context, bos included. Documents that do not fill the longest are left out, so
    that every position is measured on the same ones; the shorter lengths are its beginnings."""
    n_documents: int = Field(default=30, gt=0)
    """Documents at most."""
    windows: int = Field(default=1, gt=0)
    """Windows of the longest length read of a document at most, one behind the other; each begins
    with bos, and nothing is carried from one to the next."""
    bins: Literal["log", "equal"] = "log"
    """log: bins of the position double, from 64 tokens on; equal: each has `bin_width`."""
    bin_width: int = Field(default=1024, gt=0)
    """Tokens of an equal bin."""
    tokens_at_once: int = Field(default=8192, gt=0)
    """Tokens of one forward pass at most: a longer window is fed in pieces, and the state is
    carried. Decides memory, not results."""

    @property
    def corpus(self) -> TextSource:
        """Where documents are read from; only with a `path`."""
        return TextSource(
            path=self.path,
            files=self.files,
            config=self.config,
            split=self.split,
            field=self.field,
        )

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        for length in self.lengths:
            if length < 2:
                raise ValueError(f"lengths: {length} must be at least 2 tokens")
        if len(set(self.lengths)) < len(self.lengths):
            raise ValueError(f"lengths = {list(self.lengths)}: every value may stand there once")
        if self.token_filter is not None and self.tokens_at_once < max(self.lengths):
            raise ValueError(
                f"tokens_at_once = {self.tokens_at_once}: token_filter needs windows that are read "
                f"at once, at least {max(self.lengths)}"
            )
        if self.path:
            self.corpus  # noqa: B018  # refuses what no corpus has
        elif self.files or self.config:
            raise ValueError("path = '': files and config need a path")
        return self

"""Declarations of text to train on: where its documents come from, and what of them is learnt."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from braidlm.arch.config import Config

HUB = "hf:"
"""What a name from the Hugging Face Hub begins with, or the path of a folder in its form."""
RUN = "run:"
"""What the name of a folder begins with that lies in the run itself, wherever that is moved."""


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError(f"{text!r:.80} holds a NUL character, which no path can")
    return text


PathText = Annotated[str, Field(min_length=1), AfterValidator(_without_nul)]
"""The name of a file or folder."""


class Corpus(Config):
    """Where documents come from."""

    path: PathText
    """A file or folder (.txt, .jsonl, also .gz, .xz and .zst; .parquet), "python-docs", present
    everywhere, or "hf:NAME", a data set of the Hugging Face Hub or a local folder in its form."""
    files: tuple[str, ...] = ()
    """Globs: which files of a folder are taken, by name, or by path inside the folder where the
    glob holds a slash; one that begins with "!" leaves files out. Default: all."""
    config: str = ""
    """"hf:" alone: the data set's configuration (subset); empty: its only or default one."""
    split: str = Field(default="train", min_length=1)
    """"hf:" alone: the data set's split."""
    revision: str = ""
    """"hf:" alone: commit, branch or tag; empty: the newest when it is tokenised."""
    weight: float = Field(default=1.0, gt=0)
    """Share of rows, relative to the other sources."""

    @property
    def is_hub(self) -> bool:
        """Whether the documents come through the `datasets` library."""
        return self.path.startswith(HUB)

    @model_validator(mode="after")
    def _fields_fit_the_path(self) -> Self:
        if self.is_hub and self.path == HUB:
            raise ValueError(f"path = '{HUB}': a data set's name or folder must follow")
        if self.is_hub and self.files:
            raise ValueError(f"files = {list(self.files)}: '{self.path}' takes config and split")
        for name in ("config", "split", "revision"):
            value = getattr(self, name)
            if not self.is_hub and value != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} = '{value}': only for a path that begins with '{HUB}', not "
                    f"'{self.path}'"
                )
        return self


class TextSource(Corpus):
    """Documents of text, tokenised once into shards."""

    kind: Literal["text"] = "text"
    """The source's kind."""
    name: str = "text"
    """Name in metrics and results."""
    field: str = "text"
    """Key of the text in a .jsonl record, column of a .parquet file or of a data set."""
    documents: Literal["file", "line", "blank-line"] = "file"
    """What a document of a .txt file is: all of it, each line, or what blank lines part."""

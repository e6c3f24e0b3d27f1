"""Declaration of texts and their paraphrases as training data: what stands in a window, and where.

The fields that are called the frame say how large a window and its parts are. Sources that read
one folder and differ in nothing but `layout` and `second` have as many input tokens in every
window, and with loss = "second" as many tokens that are learnt.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.config import Config
from braidlm.arch.sources import PathText

Layout = Literal["after", "before", "far", "plain", "separate"]
Second = Literal["paraphrase", "partial", "repeat", "unrelated"]


class ParaphraseSource(Config):
    """Texts with their paraphrases, or with a control instead, in windows of a fixed length.

    Source: Lee et al. 2025 (arXiv 2510.26912) for continued training on paraphrases; the layouts
    and the controls are our own.
    """

    kind: Literal["paraphrase"] = "paraphrase"
    """The source's kind."""
    name: str = "paraphrase"
    """Name in metrics and results."""
    path: PathText
    """A folder as `braid paraphrase` makes it: its pairs.jsonl holds one object a line with the
    fields id, text and paraphrase; ids that agree before "#" are of one text."""
    weight: float = Field(default=1.0, gt=0)
    """Share of rows, relative to the other sources."""
    layout: Layout = "after"
    """Where the second text stands: right after the original, before it, or far, behind the gap.
    plain: there is none, other texts follow; separate: the same, each a document by itself."""
    second: Second = "paraphrase"
    """What stands beside the original: its paraphrase, a part of that (partial), or a control:
    the original again (repeat), or as many tokens of another text (unrelated)."""
    fraction: float = Field(default=1.0, ge=0, le=1)
    """Share of windows that are laid out so; the rest is plain."""
    length: int = Field(default=256, ge=8)
    """Frame: tokens of a window; as many as fit stand in a row. Other texts of the folder fill
    what the two leave, and the last of them is cut."""
    gap_documents: int = Field(default=0, ge=0)
    """Frame: other texts between the two where the layout is far; elsewhere they stand behind."""
    gap_tokens: int = Field(default=0, ge=0)
    """Frame: instead of gap_documents, tokens between the two, separators included."""
    part: float = Field(default=1.0, gt=0, le=1)
    """Frame: share of the paraphrase's sentences that partial takes, in one run; words where
    there is one sentence. 1: nothing is partial."""
    rest: Literal["original", "left_out"] = "original"
    """Frame: what partial has beside that part: the other sentences of the original, or nothing."""
    separator: str = "\n\n"
    """Frame: what stands between two texts of a window; empty: eos and bos, as between documents.
    Documents of their own (separate) have bos before and eos behind."""
    loss: Literal["all", "second"] = "all"
    """Frame: all: whatever follows something in its document is learnt. second: of the text that
    stands second as many tokens as the shorter of the two has; in plain windows the last ones."""
    unrelated: Literal["paraphrase", "text"] = "paraphrase"
    """What the unrelated control is cut from: paraphrases of other texts, so that it sees the same
    paraphrases as the others, or other texts themselves."""
    too_long: Literal["refuse", "cut", "drop"] = "refuse"
    """Frame: what happens to a text and its paraphrases that are longer than their share of a
    window: the source is refused, each is cut at its end, or all are left out."""

    @property
    def has_second(self) -> bool:
        """Whether a window holds more than texts by themselves."""
        return self.layout not in ("plain", "separate")

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        if self.gap_documents and self.gap_tokens:
            raise ValueError(
                f"gap_documents = {self.gap_documents}, gap_tokens = {self.gap_tokens}: one of the "
                "two must be 0"
            )
        if self.layout == "far" and not (self.gap_documents or self.gap_tokens):
            raise ValueError("layout = 'far': needs gap_documents or gap_tokens above 0")
        if self.second == "partial" and self.part == 1:
            raise ValueError("second = 'partial': needs part below 1")
        if not self.has_second and self.second != "paraphrase":
            raise ValueError(
                f"second = '{self.second}': layout = '{self.layout}' has no second text; leave it "
                "out, or choose after, before or far"
            )
        if self.gap_tokens >= self.length:
            raise ValueError(
                f"gap_tokens = {self.gap_tokens}: must be less than length = {self.length}"
            )
        return self

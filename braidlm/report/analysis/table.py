"""Every picture, by its instrument's name, in the order of the page."""

from __future__ import annotations

from braidlm.report.analysis import (
    ablation,
    attention_span,
    branch_share,
    in_context,
    influence,
    memory_length,
    repeats,
    retrieval_heads,
    state_use,
    surgery,
)
from braidlm.report.analysis.picture import Picture

ALL = (
    memory_length.PICTURE,
    attention_span.PICTURE,
    branch_share.PICTURE,
    influence.PICTURE,
    state_use.PICTURE,
    surgery.PICTURE,
    ablation.PICTURE,
    retrieval_heads.PICTURE,
    repeats.PICTURE,
    in_context.PICTURE,
)
PICTURES: dict[str, Picture] = {picture.name: picture for picture in ALL}

"""Every picture, by its instrument's name, in the order of the page."""

from __future__ import annotations

from braidlm.report.analysis import attention_span, branch_share, in_context, memory_length
from braidlm.report.analysis.picture import Picture

ALL = (
    memory_length.PICTURE,
    attention_span.PICTURE,
    branch_share.PICTURE,
    in_context.PICTURE,
)
PICTURES: dict[str, Picture] = {picture.name: picture for picture in ALL}

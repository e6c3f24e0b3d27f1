"""Every picture, by its instrument's name, in the order of the page."""

from __future__ import annotations

from braidlm.report.analysis import memory_length
from braidlm.report.analysis.picture import Picture

PICTURES: dict[str, Picture] = {picture.name: picture for picture in (memory_length.PICTURE,)}

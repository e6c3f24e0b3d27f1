"""What the colours of a picture's dots mean."""

from __future__ import annotations

from collections.abc import Sequence

from braidlm.report import svg
from braidlm.report.html import Markup, join, tag


def legend(entries: Sequence[tuple[int, str]]) -> Markup:
    """Return a list of colours with words; empty where there is nothing to tell apart."""
    if len(entries) < 2:
        return join([])
    return tag("ul", *(_entry(colour, words) for colour, words in entries), cls="legend")


def _entry(colour: int, words: str) -> Markup:
    mark = svg.marker(8.0, 8.0, colour, r=4.0)
    swatch = f'<svg class="swatch dot" viewBox="0 0 16 16" aria-hidden="true">{mark}</svg>'
    return tag("li", tag("span", Markup(swatch), words))

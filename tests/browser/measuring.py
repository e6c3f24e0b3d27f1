"""What is asked of an open page; the questions themselves are in `measuring.js`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

REPORTS = pytest.mark.parametrize("name", ["real", pytest.param("crowded", marks=pytest.mark.slow)])
UNFOLD = "document.querySelectorAll('details').forEach((part) => { part.open = true; })"
_QUESTIONS = Path(__file__).with_suffix(".js").read_text()


def ask(page: Any, question: str) -> Any:
    """Ask one of the questions of `measuring.js`: outside, texts, stops or focused."""
    return page.evaluate(f"{_QUESTIONS.strip()}.{question}()")


def texts(page: Any) -> list[dict[str, Any]]:
    """Every visible text, on a screen so high that nothing has to be scrolled into sight."""
    height = page.evaluate("document.scrollingElement.scrollHeight")
    page.set_viewport_size({"width": page.viewport_size["width"], "height": min(height, 16000)})
    return ask(page, "texts")


def contrast(ink: list[float], paper: list[float]) -> float:
    """WCAG 2 contrast of two sRGB colours (0 to 255): 1 to 21."""
    light, dark = sorted((_luminance(ink), _luminance(paper)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: list[float]) -> float:
    parts = [part / 255 for part in colour]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def column(page: Any, number: int) -> list[str]:
    """The first line of every cell in one column of the table of arms, as it is shown."""
    return page.eval_on_selector_all(
        f"#arms tbody tr > :nth-child({number + 1})",
        "cells => cells.map((cell) => cell.innerText.split('\\n')[0].trim())",
    )


def first_column(page: Any) -> list[str]:
    return page.eval_on_selector_all(
        "#arms tbody th", "cells => cells.map((cell) => cell.innerText.trim())"
    )

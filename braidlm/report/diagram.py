"""The layer diagram of an arm: one box per sublayer, branches side by side, repeats drawn once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from braidlm.arch.defaults import LETTER_FIELDS, LETTERS
from braidlm.arch.pattern import parse
from braidlm.arch.recipe import Recipe
from braidlm.errors import InputError
from braidlm.report import svg

_NAMES = {
    "attention": "attention",
    "window_attention": "window attention",
    "bmojo_f": "B'MOJO-F",
    "mla": "latent attention",
    "mamba2": "Mamba-2",
    "mamba1": "Mamba-1",
    "gated_deltanet": "Gated DeltaNet",
    "kda": "Kimi delta attention",
    "mlp": "MLP",
    "moe": "MoE",
}
_SHORT = {"window_attention": "window", "mla": "MLA", "gated_deltanet": "GDN", "kda": "KDA"}
_CLASSES = {
    "attention": "attention",
    "window_attention": "window",
    "bmojo_f": "window",
    "mla": "window",
    "mamba2": "mamba",
    "mamba1": "scan",
    "gated_deltanet": "delta",
    "kda": "delta",
    "mlp": "channel",
    "moe": "experts",
}

_CHANNEL = ("mlp", "moe")

FOLD_ABOVE = 8
"""Sublayers above which repeated units are drawn once with their count."""
WIDTH, MARGIN, BOX, GAP, INSET = 190.0, 8.0, 22.0, 7.0, 9.0


@dataclass(frozen=True)
class Cell:
    """One sublayer: the kinds of its branches, and their fusion in words when there are several."""

    kinds: tuple[str, ...]
    fusion: str = ""
    shared: str = ""
    """The letter, where all its uses have one set of weights."""


@dataclass(frozen=True)
class Repeat:
    """A unit that is repeated."""

    items: tuple[Cell | Repeat, ...]
    count: int


def cells(config: dict[str, Any]) -> list[Cell]:
    """The sublayers of a config; one that this version cannot resolve is read by its pattern.

    Raises:
        InputError: there is no readable pattern either.
    """
    try:
        sublayers = Recipe.from_dict(config).spec.sublayers
    except InputError:
        return _by_letters(config.get("model"))
    return [
        Cell(
            tuple(_kind(branch) for branch in layer.branches),
            _fusion(layer.fusion),
            layer.symbol if layer.wiring.shared else "",
        )
        for layer in sublayers
    ]


def _by_letters(model: Any) -> list[Cell]:
    pattern = model.get("pattern") if isinstance(model, dict) else None
    if not isinstance(pattern, str):
        raise InputError(f"model.pattern = {pattern!r}: must be a pattern such as 'M-M-*-'")
    return [
        Cell(
            tuple(_kind_of(letter) for letter in letters),
            "fused" if len(letters) > 1 else "",
        )
        for letters in parse(pattern).expand()
    ]


def _kind(mixer: Any) -> str:
    windowed = mixer.kind == "attention" and mixer.window is not None
    return "window_attention" if windowed else mixer.kind


def _kind_of(letter: str) -> str:
    windowed = "window" in LETTER_FIELDS.get(letter, {})
    return "window_attention" if windowed else LETTERS.get(letter, letter)


def _fusion(fusion: Any) -> str:
    if fusion is None:
        return ""
    cross = fusion.cross
    words = [
        fusion.combine.replace("_", " "),
        f"per {fusion.gate}" if fusion.gate else "",
        "SSM asks" if cross is not None and cross.query == "recurrent" else "",
        cross.position if cross is not None and cross.position != "none" else "",
        f"window {cross.window}" if cross is not None and cross.window else "",
        "" if fusion.norm == "none" else fusion.norm,
    ]
    return ", ".join(filter(None, words))


def fold(items: list[Cell]) -> tuple[Cell | Repeat, ...]:
    """Put repeated units into one box with their count.

    Units are whole layers (a mixer and the channel sublayers after it), or single sublayers where
    that needs fewer boxes.
    """
    by_layer = _fold(_layers(items))
    by_sublayer = _fold([(item,) for item in items])
    return by_layer if _n_boxes(by_layer) <= _n_boxes(by_sublayer) else by_sublayer


def _layers(items: list[Cell]) -> list[tuple[Cell, ...]]:
    layers: list[tuple[Cell, ...]] = []
    for item in items:
        if layers and all(kind in _CHANNEL for kind in item.kinds):
            layers[-1] += (item,)
        else:
            layers.append((item,))
    return layers


def _fold(units: list[tuple[Cell, ...]]) -> tuple[Cell | Repeat, ...]:
    """Greedy tandem repeats: at each place the run that saves the most, folded again inside."""
    out: list[Cell | Repeat] = []
    at = 0
    while at < len(units):
        length, count = _best_run(units, at)
        if count > 1:
            out.append(Repeat(_fold(units[at : at + length]), count))
        else:
            out.extend(units[at])
        at += length * count
    return tuple(out)


def _best_run(units: list[tuple[Cell, ...]], at: int) -> tuple[int, int]:
    """Length and count of the repeat at `at` that leaves out the most units."""
    best = (1, 1)
    for length in range(1, (len(units) - at) // 2 + 1):
        unit, count = units[at : at + length], 1
        while units[at + count * length : at + (count + 1) * length] == unit:
            count += 1
        if (count - 1) * length > (best[1] - 1) * best[0]:
            best = (length, count)
    return best


def _n_boxes(items: tuple[Cell | Repeat, ...]) -> int:
    return sum(_n_boxes(item.items) if isinstance(item, Repeat) else 1 for item in items)


def draw(items: list[Cell], name: str) -> str:
    """The diagram as SVG, input at the top."""
    shown = fold(items) if len(items) > FOLD_ABOVE else tuple(items)
    body, bottom = _column(shown, MARGIN, WIDTH - MARGIN, 20.0)
    ends = svg.text(WIDTH / 2, 12, "embedding", anchor="middle", cls="end") + svg.text(
        WIDTH / 2, bottom + 10, "norm, head", anchor="middle", cls="end"
    )
    spine = f'<path class="spine" d="M{svg.n(WIDTH / 2)} 16V{svg.n(bottom)}"/>'
    return svg.figure(
        WIDTH, bottom + 16, spine + body + ends, title=f"Layers of {name}", cls="layers"
    )


def _column(
    items: tuple[Cell | Repeat, ...], left: float, right: float, top: float
) -> tuple[str, float]:
    """Boxes from top to bottom; returns the drawing and the place where the next may begin."""
    out = []
    for item in items:
        if isinstance(item, Cell):
            drawn, top = _cell(item, left, right, top)
        elif len(item.items) == 1 and isinstance(item.items[0], Cell):
            drawn, bottom = _cell(item.items[0], left, right - 24, top)
            drawn += _times(item.count, right, (top + bottom - GAP) / 2)
            top = bottom
        else:
            drawn, top = _group(item, left, right, top)
        out.append(drawn)
    return "".join(out), top


def _group(item: Repeat, left: float, right: float, top: float) -> tuple[str, float]:
    inner, bottom = _column(item.items, left + INSET, right - INSET - 22, top + INSET - 2)
    height = bottom - GAP + INSET - 2 - top
    outline = (
        f'<rect class="repeat" x="{svg.n(left)}" y="{svg.n(top)}" width="{svg.n(right - left)}" '
        f'height="{svg.n(height)}" rx="7"/>'
    )
    return outline + inner + _times(item.count, right - 5, top + height / 2), top + height + GAP


def _times(count: int, x: float, y: float) -> str:
    return svg.text(x, y + 4, f"×{count}", anchor="end", cls="times")


def _cell(cell: Cell, left: float, right: float, top: float) -> tuple[str, float]:
    if len(cell.kinds) == 1:
        return _box(cell.kinds[0], left, right, top, cell.shared), top + BOX + GAP
    gap = 5.0
    width = (right - left - gap * (len(cell.kinds) - 1)) / len(cell.kinds)
    boxes = "".join(
        _box(kind, left + i * (width + gap), left + i * (width + gap) + width, top, cell.shared)
        for i, kind in enumerate(cell.kinds)
    )
    fuse = top + BOX + 2
    words = _cut(cell.fusion, right - left, 5.6)
    bar = (
        f'<rect class="fuse" x="{svg.n(left)}" y="{svg.n(fuse)}" width="{svg.n(right - left)}" '
        f'height="15" rx="3"><title>{svg.escape(cell.fusion)}</title></rect>'
    )
    said = svg.text((left + right) / 2, fuse + 11, words, anchor="middle", cls="fusion")
    return boxes + bar + said, fuse + 15 + GAP


def _box(kind: str, left: float, right: float, top: float, shared: str = "") -> str:
    """One mixer; boxes of one shared letter hold the same weights, and carry that letter."""
    whole = f"{label(kind)}, shared {shared}" if shared else label(kind)
    name = whole
    if len(name) * 6.4 > right - left - 4:
        name = f"{_SHORT.get(kind, label(kind))} {shared}".rstrip()
        name = _cut(name, right - left - 4, 6.4)
    rect = (
        f'<rect class="box {kind_class(kind)}" x="{svg.n(left)}" y="{svg.n(top)}" '
        f'width="{svg.n(right - left)}" height="{svg.n(BOX)}" rx="4">'
        f"<title>{svg.escape(whole)}</title></rect>"
    )
    return rect + svg.text((left + right) / 2, top + 15, name, anchor="middle", cls="name")


def _cut(words: str, room: float, per_char: float) -> str:
    most = max(1, int(room / per_char))
    return words if len(words) <= most else words[: most - 1] + "…"


def label(kind: str) -> str:
    """A mixer kind as the field writes it."""
    return _NAMES.get(kind, kind.replace("_", " "))


def kind_class(kind: str) -> str:
    """The colour class of a kind; a kind that this page does not know gets its own neutral one."""
    return f"k-{_CLASSES.get(kind, 'other')}"

"""What an instrument read, in words."""

from __future__ import annotations

from typing import Any

from braidlm.report.stats import number

Data = dict[str, Any]


def instrument_of(result: Data) -> str:
    """Return the name of the instrument that made a result."""
    about = result.get("analysis")
    return str(about.get("instrument")) if isinstance(about, dict) else ""


def inputs_of(result: Data) -> str:
    """Return what was read, where it was not held-out text: "text book.txt", "task recall"."""
    read = _read(result)
    if read.get("file"):
        return f"text {read['file']}"
    return f"task {read['task']}" if read.get("task") else ""


def digest_of(result: Data) -> str:
    """Return what tells one set of documents from another."""
    return str(_read(result).get("digest"))


def what_was_read(result: Data) -> str:
    """Return a sentence: how many documents, how long, which layers, which step."""
    read = _read(result)
    n, longest = number(read.get("n_documents")), number(read.get("longest"))
    if n is None or longest is None:
        return ""
    what = "prompt" if read.get("task") else "document"
    parts = [f"{n:,.0f} {what}{'' if n == 1 else 's'} of up to {longest:,.0f} tokens"]
    if result.get("is_extrapolated"):
        parts.append("longer than in training")
    layers = (result.get("analysis") or {}).get("layers")
    if isinstance(layers, list):
        parts.append(f"layers {', '.join(map(str, layers))} only")
    if (step := number(result.get("step"))) is not None:
        parts.append(f"step {step:,.0f}")
    return f"{', '.join(parts)}."


def _read(result: Data) -> Data:
    about = result.get("analysis")
    read = about.get("inputs") if isinstance(about, dict) else None
    return read if isinstance(read, dict) else {}

"""How byte-pair tokenizers part a text into words before they merge anything, by llama.cpp's names.

Source: ggml-org/llama.cpp, src/llama-vocab.cpp, and the tokenizers that its names stand for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_OPENING = r"[^\r\n\p{L}\p{N}]?"


@dataclass(frozen=True)
class Words:
    """One way to part a text."""

    pattern: str = ""
    """Matches words, in the syntax of Oniguruma; empty: GPT-2's own."""
    single_digits: bool = False
    """Whether each digit is a word before the pattern is asked."""
    whole_first: bool = False
    """Whether a word that is a token is that token, whatever its merges are."""
    opens: bool = False
    """Whether a text is given a bos where the file does not say."""

    def json(self, of_bytes: Mapping[str, Any]) -> dict[str, Any]:
        """Return it as a `tokenizers` JSON file has it; `of_bytes` writes words in bytes."""
        parts: list[dict[str, Any]] = []
        if self.single_digits:
            parts.append({"type": "Digits", "individual_digits": True})
        if self.pattern:
            regex = {"Regex": self.pattern}
            split = {"type": "Split", "pattern": regex, "behavior": "Isolated", "invert": False}
            parts.append(split)
        parts.append({**of_bytes, "use_regex": not self.pattern})
        return {"type": "Sequence", "pretokenizers": parts} if len(parts) > 1 else parts[0]


GPT2 = Words()
DIGITS = Words(single_digits=True)
LLAMA3 = Words(
    rf"{_ENDING}|{_OPENING}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACE}",
    whole_first=True,
    opens=True,
)
TEKKEN = Words(
    rf"{_OPENING}{_UPPER}*{_LOWER}+|{_OPENING}{_UPPER}+{_LOWER}*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACE}",
    whole_first=True,
    opens=True,
)

KINDS: dict[str, Words] = {
    "gpt-2": GPT2,
    **dict.fromkeys(("smollm", "starcoder", "refact"), DIGITS),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), LLAMA3),
    "tekken": TEKKEN,
}
"""Values of ``tokenizer.ggml.pre``."""

"""Where the sentences of a text end among its tokens, or its words where it is one sentence."""

import numpy as np

from braidlm.data.paraphrase.reading import sentences
from braidlm.data.tokenizer import Tokenizer

_MAX_PREFIX_CHARS = 1 << 13


def units_of(text: str) -> list[str]:
    """Return the sentences of a text, or the words of a single one; together they are the text.

    White space belongs to what follows it, at the very end to what it follows.
    """
    parts = sentences(text)
    if len(parts) < 2:
        parts = text.split()
    ends, at = [], 0
    for part in parts:
        at = text.index(part, at) + len(part)
        ends.append(at)
    ends[-1:] = [len(text)]
    return [text[start:stop] for start, stop in zip([0, *ends], ends, strict=False)]


def unit_marks(text: str, ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """Return (n,) bool: whether a sentence, or a word of a single sentence, ends with a token.

    A token that lies in two of them ends neither. The last one always ends one.

    Args:
        text: not blank.
        ids: (n,) its tokens.
        tokenizer: made them.
    """
    units = units_of(text)
    parts = tokenizer.encode_batch(units)
    if np.array_equal(np.concatenate(parts), ids):
        ends = np.cumsum([len(part) for part in parts])
    else:
        ends = _common_ends(units, ids, tokenizer)
    marks = np.zeros(len(ids), dtype=bool)
    marks[[end - 1 for end in ends if end > 0]] = True
    marks[-1] = True
    return marks


def _common_ends(units: list[str], ids: np.ndarray, tokenizer: Tokenizer) -> list[int]:
    """Return where the text up to a unit's end has the tokens of the whole; 8 Ki characters."""
    prefixes, at = [""], 0
    for unit in units:
        if (at := at + len(unit)) > _MAX_PREFIX_CHARS:
            break
        prefixes.append(prefixes[-1] + unit)
    found = tokenizer.encode_batch(prefixes[1:]) if len(prefixes) > 1 else []
    return [len(part) for part in found if np.array_equal(part, ids[: len(part)])]

"""Which half a document belongs to: the one that is learnt, or the one that is held out."""

import hashlib


def is_held_out(text: str, fraction: float) -> bool:
    """Tell whether a document belongs to the held-out part, by its text alone.

    Exact duplicates land on the same side; a larger fraction keeps what a smaller one held out.
    """
    digest = hashlib.sha256(b"braidlm held-out\n" + text.encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64

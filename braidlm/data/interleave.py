"""Which source each row comes from: exact shares, evenly spread, any row without the others."""

from collections.abc import Sequence
from fractions import Fraction

from braidlm.errors import InputError


class Interleave:
    """A fixed order of sources with given weights.

    The first source takes the rows at which its rounded share of all rows grows; the others
    divide what is left in the same way. After any number of rows each source has had its share
    to within a few rows (one for two sources), and in the long run exactly.

    Args:
        weights: relative shares, as decimal numbers; zero leaves a source out.

    Raises:
        InputError: a negative weight, or no positive one.
    """

    def __init__(self, weights: Sequence[float]):
        exact = [Fraction(repr(float(w))) for w in weights]
        if any(w < 0 for w in exact) or not any(exact):
            raise InputError(f"weights {list(weights)} must be 0 or more, and one must be positive")
        self._sources = [i for i, w in enumerate(exact) if w]
        used = [exact[i] for i in self._sources]
        self._shares = [w / sum(used[i:]) for i, w in enumerate(used)]

    def locate(self, row: int) -> tuple[int, int]:
        """Return (source, how many rows that source had before) of row 0, 1, 2, ..."""
        for source, share in zip(self._sources, self._shares, strict=True):
            before, after = _rounded(share, row), _rounded(share, row + 1)
            if after > before:
                return source, before
            row -= before
        raise AssertionError("the last share is 1, which takes every row")


def _rounded(share: Fraction, rows: int) -> int:
    return (2 * rows * share.numerator + share.denominator) // (2 * share.denominator)

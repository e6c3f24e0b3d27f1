"""The laws that every hybrid must obey, as functions over a model: each measures a deviation.

A law never asserts. It returns how far two ways of computing the same thing lie apart, and the
caller (a test, a conformance report) holds that against a tolerance.
"""

from braidlm.laws.model import (
    LAWS,
    Deviation,
    carried,
    causality,
    packed,
    padded,
    split,
    stepped,
)

__all__ = [
    "LAWS",
    "Deviation",
    "carried",
    "causality",
    "packed",
    "padded",
    "split",
    "stepped",
]

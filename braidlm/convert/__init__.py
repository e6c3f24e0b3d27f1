"""Hybrids made from transformers: weights copied, outputs matched, then trained on."""

from braidlm.convert.run import Converted, convert

__all__ = ["Converted", "convert"]

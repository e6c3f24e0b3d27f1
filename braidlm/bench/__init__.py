"""Measured speed and memory, beside what `arch.cost` predicts, and beside other libraries."""

from braidlm.bench.plan import Plan
from braidlm.bench.result import as_data
from braidlm.bench.run import Outcome, bench

__all__ = ["Outcome", "Plan", "as_data", "bench"]

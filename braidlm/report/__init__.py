"""One page out of run directories. Reads plain files, never imports torch."""

from braidlm.report.content import tables
from braidlm.report.page import build, build_analysis

__all__ = ["build", "build_analysis", "tables"]

"""One page out of run directories. Reads plain files, never imports torch."""

from braidlm.report.content import tables
from braidlm.report.page import build

__all__ = ["build", "tables"]

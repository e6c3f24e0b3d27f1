"""What `braid analyze` found, as pictures and plain sentences: one file per instrument."""

from braidlm.report.analysis.section import analyses, page, section

__all__ = ["analyses", "page", "section"]

"""Checkpoints of other libraries in and out: `load`, `save`, and whole run directories."""

from braidlm.interop.exports import export_run, save
from braidlm.interop.imports import Loaded, import_run, load, spec_of

__all__ = ["Loaded", "export_run", "import_run", "load", "save", "spec_of"]

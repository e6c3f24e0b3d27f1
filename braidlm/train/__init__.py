"""Training: from a recipe to a run directory."""

from braidlm.train.loop import NonFiniteLossError, Summary, build_model, train

__all__ = ["NonFiniteLossError", "Summary", "build_model", "train"]

"""Training: from a recipe to a run directory."""

from braidlm import verb
from braidlm.train.loop import NonFiniteLossError, Summary, build_model, train

verb.make_callable(__name__)

__all__ = ["NonFiniteLossError", "Summary", "build_model", "train"]

"""The declaration of a model and of a run, and their exact cost. Nothing here imports torch."""

from braidlm.arch.recipe import Recipe
from braidlm.arch.spec import Spec, Sublayer

__all__ = ["Recipe", "Spec", "Sublayer"]

"""What each layer's memory holds and uses: instruments over the layers of a run's model."""

from braidlm.analysis.run import analyze
from braidlm.analysis.table import INSTRUMENTS

__all__ = ["INSTRUMENTS", "analyze"]

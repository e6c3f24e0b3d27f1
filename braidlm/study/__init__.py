"""Studies: arms x seeds of one recipe, run side by side, resumable, with budgets stated."""

from braidlm.study.config import Arm, StudyConfig
from braidlm.study.study import StudySummary, run_study

__all__ = ["Arm", "StudyConfig", "StudySummary", "run_study"]

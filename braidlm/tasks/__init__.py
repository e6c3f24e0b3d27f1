"""What is asked of a model: language modelling on held-out text, and recall by degrees."""

from braidlm.tasks.ask import run_task
from braidlm.tasks.choose import choose_tasks, with_data, with_lengths, with_tasks
from braidlm.tasks.families import describe
from braidlm.tasks.run import evaluate

__all__ = [
    "choose_tasks",
    "describe",
    "evaluate",
    "run_task",
    "with_data",
    "with_lengths",
    "with_tasks",
]

"""Declarations of what is asked of a model, one file a family; none of them imports torch."""

from typing import Annotated

from pydantic import Field

from braidlm.arch.tasks.biographies import BiographiesTask
from braidlm.arch.tasks.choice import ChoiceTask
from braidlm.arch.tasks.harness import HarnessTask
from braidlm.arch.tasks.lm import LMTask
from braidlm.arch.tasks.longtext import LongTextTask
from braidlm.arch.tasks.mqar import MQARTask
from braidlm.arch.tasks.multidoc import MultiDocTask
from braidlm.arch.tasks.phonebook import PhonebookTask
from braidlm.arch.tasks.phonebook_keys import PhonebookKeysTask
from braidlm.arch.tasks.recall import RecallTask
from braidlm.arch.tasks.ruler import RulerTask
from braidlm.arch.tasks.symbols import CopyingTask, MADTask

__all__ = [
    "AnyTask",
    "BiographiesTask",
    "ChoiceTask",
    "CopyingTask",
    "HarnessTask",
    "LMTask",
    "LongTextTask",
    "MADTask",
    "MQARTask",
    "MultiDocTask",
    "PhonebookKeysTask",
    "PhonebookTask",
    "RecallTask",
    "RulerTask",
]

AnyTask = Annotated[
    LMTask
    | LongTextTask
    | MQARTask
    | MADTask
    | CopyingTask
    | PhonebookTask
    | MultiDocTask
    | PhonebookKeysTask
    | RecallTask
    | RulerTask
    | HarnessTask
    | ChoiceTask
    | BiographiesTask,
    Field(discriminator="kind"),
]
"""Any of them, told apart by its kind."""

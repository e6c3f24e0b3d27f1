"""One `case` per family of tasks: how its items are made, and how one of them is drawn."""

from __future__ import annotations

from collections.abc import Callable

from braidlm.arch import Recipe
from braidlm.arch.tasks import (
    AnyTask,
    BiographiesTask,
    ChoiceTask,
    CopyingTask,
    HarnessTask,
    LMTask,
    LongTextTask,
    MADTask,
    MQARTask,
    MultiDocTask,
    PhonebookKeysTask,
    PhonebookTask,
    RecallTask,
    RulerTask,
)
from braidlm.data.tokenizer import Tokenizer, load_tokenizer
from braidlm.tasks.biographies import biographies_work
from braidlm.tasks.choice import ChoiceWork
from braidlm.tasks.choose import limited
from braidlm.tasks.harness.work import HarnessWork
from braidlm.tasks.lm import LMWork, describe_lm
from braidlm.tasks.longtext import LongTextWork
from braidlm.tasks.mqar import MQARWork, describe_mqar
from braidlm.tasks.multidoc import multidoc_work
from braidlm.tasks.phonebook import PhonebookWork, describe_phonebook
from braidlm.tasks.phonebook_keys import phonebook_keys_work
from braidlm.tasks.questions import QuestionWork
from braidlm.tasks.recall import recall_work
from braidlm.tasks.ruler import RulerWork
from braidlm.tasks.symbols import SymbolWork
from braidlm.tasks.work import Work

TextTask = (
    LMTask
    | LongTextTask
    | PhonebookTask
    | MultiDocTask
    | PhonebookKeysTask
    | RecallTask
    | RulerTask
    | HarnessTask
    | ChoiceTask
    | BiographiesTask
)
"""Tasks of text; the others are of symbols."""


def make_ready(
    task_config: AnyTask, tokenizer: Callable[[], Tokenizer] | Tokenizer, recipe: Recipe
) -> Work:
    """Return the items of a task, before any model sees them.

    Args:
        task_config: the task.
        tokenizer: of the model, or what loads it: tasks of symbols need none.
        recipe: of the model.

    Raises:
        InputError: a source or a tokenizer that does not fit the task.
    """
    match task_config:
        case MQARTask():
            return MQARWork(task_config, recipe)
        case MADTask() | CopyingTask():
            return SymbolWork(task_config, recipe)
    return _of_text(task_config, tokenizer() if callable(tokenizer) else tokenizer, recipe)


def _of_text(task_config: TextTask, tokenizer: Tokenizer, recipe: Recipe) -> Work:
    match task_config:
        case LMTask():
            return LMWork(task_config, tokenizer, recipe)
        case LongTextTask():
            return LongTextWork(task_config, tokenizer, recipe)
        case PhonebookTask():
            return PhonebookWork(task_config, tokenizer, recipe)
        case MultiDocTask():
            return multidoc_work(task_config, tokenizer, recipe)
        case PhonebookKeysTask():
            return phonebook_keys_work(task_config, tokenizer, recipe)
        case RecallTask():
            return recall_work(task_config, tokenizer, recipe)
        case RulerTask():
            return RulerWork(task_config, tokenizer, recipe)
        case BiographiesTask():
            return biographies_work(task_config, tokenizer, recipe)
        case ChoiceTask():
            return ChoiceWork(task_config, tokenizer, recipe)
        case HarnessTask():
            return HarnessWork(task_config, tokenizer, recipe)


def describe(task: AnyTask, recipe: Recipe, tokenizer: Tokenizer | None = None) -> str:
    """Return one example of a task, drawn for a person.

    Raises:
        InputError: a source that does not fit the task.
    """
    if isinstance(task, MQARTask):
        return describe_mqar(task, recipe)
    if isinstance(task, MADTask | CopyingTask):
        return SymbolWork(task.model_copy(update={"n_items": 1}), recipe).example()
    tokenizer = tokenizer or load_tokenizer(recipe.data.tokenizer)
    match task:
        case LMTask():
            return describe_lm(task, tokenizer, recipe)
        case PhonebookTask():
            return describe_phonebook(task, tokenizer, recipe)
    work = make_ready(limited(task, 1), tokenizer, recipe)
    assert isinstance(work, QuestionWork | LongTextWork | HarnessWork | ChoiceWork)
    return work.example()

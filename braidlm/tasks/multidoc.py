"""Questions about one of many documents: how much of an answer depends on where it stands.

An item, with the answer's document in the middle, the answer in brackets:

    Write a high-quality answer for the given question using only the provided search results (some
    of which might be irrelevant).

    Document [1](Title: Lake Eyre) ...
    Document [2](Title: Eiffel Tower) ... It was built in 1887 ...
    Document [3](Title: Mordant) ...

    Question: when was the eiffel tower built
    Answer: [1887]

The same documents surround a question at every depth, and the first of them where there are fewer.

Source: Liu et al. 2023 (arXiv 2307.03172); Yang et al. 2018 (arXiv 1809.09600) for hotpotqa.
"""

from __future__ import annotations

from braidlm.arch import Recipe
from braidlm.arch.tasks import MultiDocTask
from braidlm.data.surround import surrounded
from braidlm.data.tokenizer import Tokenizer
from braidlm.tasks.questions import Answering, Question, QuestionWork

SCORERS = ("best_subspan_em", "squad_em", "squad_f1")


def multidoc_work(task: MultiDocTask, tokenizer: Tokenizer, recipe: Recipe) -> QuestionWork:
    """Return the questions of a task.

    Raises:
        InputError: data that cannot be read, too few documents, or a length that is too short.
    """
    questions = [
        Question(
            id=found.asked.id,
            prompt=found.asked.prompt(found.documents, task.reads, task.question_first),
            answers=found.asked.answers,
            cluster=found.asked.cluster,
            group=found.group,
            without_context=found.asked.bare,
        )
        for found in surrounded(task, tokenizer)
    ]
    answering = Answering(task.max_new_tokens, ("\n",), SCORERS)
    about = {"data": {"path": task.path, "dataset": task.dataset}}
    return QuestionWork(task.name, questions, answering, tokenizer, recipe, about)

"""Recall from real documents: a text, then a question that it has answered.

One item of squad (the prompt is one line end longer), the answer in brackets:

    The Amazon rainforest, also known in English as Amazonia, is a moist broadleaf forest ...
    The Amazon rainforest is also known in English as [Amazonia]

The greedy continuation up to a line end is scored. With `lengths` the document is cut to fit, the
answer always inside; the same questions are asked at every length. A question is also put without
its document, because the weights may know the answer.

Source: Arora et al. 2024 (arXiv 2402.18668) for squad, fda and swde; Arora et al. 2024 (arXiv
    2407.05483) for reading twice.
"""

from __future__ import annotations

from braidlm.arch import Recipe
from braidlm.arch.tasks import RecallTask
from braidlm.data.passages import DATASETS
from braidlm.data.recall import prompts
from braidlm.data.tokenizer import Tokenizer
from braidlm.tasks.questions import Answering, Question, QuestionWork
from braidlm.tasks.spread import KEY


def recall_work(task: RecallTask, tokenizer: Tokenizer, recipe: Recipe) -> QuestionWork:
    """Return the questions of a recall task.

    Raises:
        InputError: data that cannot be read, or a length that does not hold a question.
    """
    questions = [
        Question(
            id=passage.id,
            prompt=prompt,
            answers=passage.answers,
            cluster=passage.cluster,
            group=({} if length is None else {"length": length})
            | ({KEY: passage.template} if task.templates else {}),
            without_context=passage.question if passage.document else None,
        )
        for passage, length, prompt in prompts(task, tokenizer)
    ]
    answering = Answering(task.max_new_tokens, ("\n",), DATASETS[task.dataset].scorers)
    about = {"data": {"path": task.path, "dataset": task.dataset}}
    return QuestionWork(task.name, questions, answering, tokenizer, recipe, about)

"""Several names of one phonebook looked up at once, as questions in text.

The book, a worked example and the query are those of `braidlm.data.phonebook_keys`. The answer is
decoded greedily up to its line end. string_match_all: share of the right numbers that stand in it;
answer_nll: loss of the first number.

Source: Jelassi et al. 2024 (arXiv 2402.01032).
"""

from __future__ import annotations

from braidlm.arch import Recipe
from braidlm.arch.tasks import PhonebookKeysTask
from braidlm.data.phonebook_keys import eval_multi_lookups, kind_of
from braidlm.data.tokenizer import Tokenizer
from braidlm.errors import InputError
from braidlm.tasks.questions import Answering, Question, QuestionWork


def phonebook_keys_work(
    task: PhonebookKeysTask, tokenizer: Tokenizer, recipe: Recipe
) -> QuestionWork:
    """Return the questions of a task.

    Raises:
        InputError: a length that holds no look-up, or that no different entries fill.
    """
    questions = []
    for length in task.lengths:
        for depth in task.depths or (None,):
            try:
                questions += _questions(task, tokenizer, length, depth)
            except InputError as error:
                raise InputError(f"task '{task.name}': {error}") from None
    answering = Answering(kind_of(task, None).n_answer, ("\n",), ("string_match_all",))
    return QuestionWork(task.name, questions, answering, tokenizer, recipe)


def _questions(
    task: PhonebookKeysTask, tokenizer: Tokenizer, length: int, depth: float | None
) -> list[Question]:
    group = {"length": length} | ({} if depth is None else {"depth": depth})
    found = []
    items = eval_multi_lookups(task.n_items, length, kind_of(task, depth), tokenizer)
    for i, item in enumerate(items):
        where = "/".join(map(str, (*group.values(), i)))
        found.append(Question(str(i), item.prompt, item.numbers, where, group))
    return found

"""Several names of one phonebook looked up at once, as questions in text.

The book, a worked example and the query are those of `braidlm.data.phonebook_keys`. The answer is
decoded greedily up to its line end. string_match_all: share of the right numbers that stand in it;
answer_nll: loss of the first number.

Source: Jelassi et al. 2024 (arXiv 2402.01032).
"""

from __future__ import annotations

from braidlm.arch import Recipe
from braidlm.arch.tasks import PhonebookKeysTask
from braidlm.data.phonebook_keys import Kind, check, draw
from braidlm.data.seeding import EVAL, generator
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
    answering = Answering(_kind(task, None).n_answer, ("\n",), ("string_match_all",))
    return QuestionWork(task.name, questions, answering, tokenizer, recipe)


def _questions(
    task: PhonebookKeysTask, tokenizer: Tokenizer, length: int, depth: float | None
) -> list[Question]:
    kind = _kind(task, depth)
    check(length, kind, tokenizer)
    group = {"length": length} | ({} if depth is None else {"depth": depth})
    keys = ("phonebook_keys", length, *kind[:4], "any" if depth is None else f"{depth:g}")
    found = []
    for i in range(task.n_items):
        item = draw(generator(0, EVAL, *keys, i), length, kind, tokenizer)
        where = "/".join(map(str, (*group.values(), i)))
        found.append(Question(str(i), item.prompt, item.numbers, where, group))
    return found


def _kind(task: PhonebookKeysTask, depth: float | None) -> Kind:
    share = None if depth is None else depth / 100
    return Kind(task.n_keys, task.n_digits, task.n_examples, task.order, share)

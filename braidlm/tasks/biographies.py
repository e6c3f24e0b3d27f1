"""Facts about generated people: memory in the weights and memory in context, told apart.

Out of the weights, about a person that was trained on, all that stands in the prompt:

    Ann Ida Bell first saw the light of day in [Elmford]

In context, about a person that no training sees:

    Ann Ida Bell was born on 14 March 1957. She hails from Elmford. Botany is what she studied. ...

    Ann Ida Bell first saw the light of day in [Elmford]

recall_from_weights, recall_in_context: share of facts where what is said begins with the answer, as
whole words. answer_nll: loss of the answer after the prompt, in nats. In context the same is asked
without the biography too (`without_context`): what a guess is worth, as nothing was learnt of these
people. Every attribute and form counts the same; errors are over people.

Source: Allen-Zhu and Li 2023 (arXiv 2309.14316).
"""

from __future__ import annotations

from braidlm.arch import Recipe
from braidlm.arch.tasks import BiographiesTask
from braidlm.data.biographies.attributes import CHANCE
from braidlm.data.biographies.items import Item, items_of
from braidlm.data.passages import following
from braidlm.data.tokenizer import Tokenizer
from braidlm.tasks.questions import Answering, Question, QuestionWork

SCORE = {"weights": "recall_from_weights", "context": "recall_in_context"}
"""The metric of each memory."""


def biographies_work(task: BiographiesTask, tokenizer: Tokenizer, recipe: Recipe) -> QuestionWork:
    """Return the questions of a task.

    Raises:
        InputError: as `items_of`.
    """
    questions = [_question(item) for item in items_of(task, recipe.data)]
    answers = tokenizer.encode_batch([following(q.prompt, q.answers[0]) for q in questions])
    # One more, so that a word that begins with the answer is none.
    n_new = max(map(len, answers)) + 1
    answering = Answering(n_new, ("\n", "."), (SCORE[task.memory],))
    about = {"memory": task.memory, "chance": CHANCE}
    return QuestionWork(task.name, questions, answering, tokenizer, recipe, about)


def _question(item: Item) -> Question:
    asked = item.asked
    person = f"person/{asked.person.number}"
    return Question(
        id=person,
        prompt=f"{item.context}\n\n{asked.prompt}" if item.context else asked.prompt,
        answers=(asked.answer,),
        cluster=person,
        group={"attribute": asked.attribute, "form": asked.form, **item.group},
        without_context=asked.prompt if item.context else None,
    )

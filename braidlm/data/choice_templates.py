"""Wordings of one question with several answers: pure functions from a question to texts.

"standard" with one worked example, in the format "letters":

    The following are multiple choice questions (with answers) about anatomy.

    What is the largest bone?
    A. the skull
    B. the femur
    Answer: B

    What is the smallest bone?
    A. the stapes
    B. the patella
    Answer:              -> " A"   " B"      (letters_and_text: " A. the stapes"  " B. the patella")

and as "cloze" (nothing is listed):

    The following are questions (with answers) about anatomy.

    Question: What is the smallest bone?
    Answer:              -> " the stapes"   " the patella"
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from braidlm.arch.tasks.choice import ChoiceTemplate, Format
from braidlm.data.choice import Choice
from braidlm.errors import InputError


class Wording(NamedTuple):
    """How a question is put."""

    head: str = "The following are multiple choice questions (with answers){about}.\n\n"
    """Before everything; {about} is " about anatomy", or nothing."""
    cloze_head: str = "The following are questions (with answers){about}.\n\n"
    """The same where no answers are listed."""
    ask: str = "{question}\n"
    """Before the list of answers."""
    cloze_ask: str = "Question: {question}\n"
    """Where there is none."""
    labels: str = "ABCDEFGHIJ"
    """What the answers are called."""
    option: str = "{label}. {text}"
    """An answer of the list."""
    between_options: str = "\n"
    cue: str = "\nAnswer:"
    """After the list."""
    cloze_cue: str = "Answer:"
    said: str = "{label}"
    """How an answer is named after the cue."""
    between: str = "\n\n"
    """After a worked example."""


WORDINGS: dict[ChoiceTemplate, Wording] = {
    "standard": Wording(),
    "parentheses": Wording(option="({label}) {text}", said="({label})"),
    "numbers": Wording(labels="123456789"),
    "small_letters": Wording(labels="abcdefghij", option="{label}) {text}"),
    "line": Wording(
        ask="Question: {question} Options: ",
        cloze_ask="Q: {question}\n",
        between_options="; ",
        cloze_cue="A:",
        between="\n",
    ),
    "bare": Wording(
        head="",
        cloze_head="",
        ask="Q: {question}\nChoices:\n",
        cloze_ask="{question}\n",
        cue="\nThe correct choice is",
        cloze_cue="The correct answer is",
        between="\n###\n",
    ),
}
"""standard: Hendrycks et al. 2021, and lm-evaluation-harness's mmlu and mmlu_continuation."""


def prompt(
    choice: Choice, examples: Sequence[Choice], template: ChoiceTemplate, form: Format
) -> tuple[str, list[str]]:
    """Return what stands before an answer, and each answer as it would follow.

    Raises:
        InputError: more answers than a wording has labels.
    """
    wording = WORDINGS[template]
    about = f" about {choice.subject.replace('_', ' ')}" if choice.subject else ""
    head = (wording.cloze_head if form == "cloze" else wording.head).format(about=about)
    shown = [
        f"{_asked(example, wording, form)}{_answers(example, wording, form)[example.right]}"
        f"{wording.between}"
        for example in examples
    ]
    asked = _asked(choice, wording, form)
    return f"{head}{''.join(shown)}{asked}", _answers(choice, wording, form)


def _asked(choice: Choice, wording: Wording, form: Format) -> str:
    if form == "cloze":
        return f"{wording.cloze_ask.format(question=choice.question)}{wording.cloze_cue}"
    listed = wording.between_options.join(_listed(choice, wording))
    return f"{wording.ask.format(question=choice.question)}{listed}{wording.cue}"


def _listed(choice: Choice, wording: Wording) -> list[str]:
    if len(choice.options) > len(wording.labels):
        raise InputError(f"question {choice.id}: more than {len(wording.labels)} answers")
    pairs = zip(wording.labels, choice.options, strict=False)
    return [wording.option.format(label=label, text=text) for label, text in pairs]


def _answers(choice: Choice, wording: Wording, form: Format) -> list[str]:
    if form == "cloze":
        return [f" {text}" for text in choice.options]
    if form == "letters_and_text":
        return [f" {text}" for text in _listed(choice, wording)]
    labels = wording.labels[: len(choice.options)]
    return [f" {wording.said.format(label=label)}" for label in labels]

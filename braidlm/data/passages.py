"""Real documents with what is asked of them: one small function per data set.

Each turns a record into a `Passage`. To add a data set: its name in `arch.tasks.recall`, its
function and a row of `DATASETS` here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import NamedTuple

from braidlm.arch.tasks.recall import RecallSet
from braidlm.data.corpora import Record
from braidlm.data.records import text_of
from braidlm.errors import InputError

SUMMARY = "Summary of information above..."
"""Where a page of SWDE ends and the list begins whose last key is asked for."""

_MARKS = re.compile(r"\[(?:PAR|DOC|TLE)\]")
"""Of TriviaQA's documents, as MRQA joined them."""

_ALTQA = re.compile(
    r"(?P<task>.*?)\n\n(?:Question:\n(?P<before>[^\n]*)\n\n)?Document:\n(?P<page>.*?)"
    r"(?:\n\nQuestion:\n(?P<after>[^\n]*))?\s*",
    re.DOTALL,
)
_A_NUMBER = (
    "You should only give an number as the answer, without any explanations and other words.\n"
    "Answer:"
)


class Passage(NamedTuple):
    """A document and what is asked of it; document + link + question is the whole prompt."""

    id: str
    document: str
    """What is cut, and what is read twice."""
    link: str
    """What stands between the document and the question."""
    question: str
    """All that follows, up to where the answer begins."""
    answers: tuple[str, ...]
    """What is accepted, the first one in the document if any is."""
    cluster: str
    """What was drawn independently; questions about one document share it."""
    opening: str = ""
    """What stands before the document where the question comes first; "": question and line end."""
    end: str = ""
    """What closes the document, cut or not, unless it ends so."""
    start: str = ""
    """What stands before the document where the question does not come first."""
    template: str = ""
    """Which wording this is; "": the only one."""

    def prompt(self, document: str, reads: int = 1, question_first: bool = False) -> str:
        """Return the prompt over a document that may be cut.

        Source: Arora et al. 2024 (arXiv 2407.05483) for the text read twice with a line end
            between.
        """
        first = self.opening or f"{self.start}{self.question}\n"
        before = first if question_first else self.start
        text = document if document.endswith(self.end) else f"{document}{self.end}"
        again = f"{text}\n" * (reads - 1)
        return f"{before}{again}{text}{self.link}{self.question}"

    def place(self) -> tuple[int, int] | None:
        """Return where the first accepted answer stands first, in whatever case.

        As words of its own if it does ("9" is not looked for in "1979"), else anywhere.
        """
        for answer in self.answers:
            text = re.escape(answer)
            for pattern in (rf"(?<!\w){text}(?!\w)", text):
                if found := re.search(pattern, self.document, re.IGNORECASE):
                    return found.span()
        return None


class DataSet(NamedTuple):
    """How a data set is read and scored."""

    fields: tuple[str, ...] | None
    """Fields of a record that are read; None: all."""
    passage: Callable[[Record], Passage | None]
    """None: a record that asks nothing."""
    scorers: tuple[str, ...]
    """See `braidlm.tasks.scorers`; the primary one first."""


def squad(record: Record) -> Passage:
    """Read {"text": passage, line end, the beginning of a sentence, "value": what completes it}."""
    text, value = _text_and_value(record)
    document, link, question = _at_the_last_line(text, record)
    return Passage(record.id, document, link, question, (value,), named(document))


def fda(record: Record) -> Passage:
    """Read {"doc_id", "key", "text": report, line end, "Key:", "value": what the report says}."""
    text, value = _text_and_value(record)
    parts = _at_the_last_line(text, record)
    return Passage(record.id, *parts, (value,), _document_id(record), _about(record))


def swde(record: Record) -> Passage:
    """Read a web page, "Summary of information above...", keys with values, and "key:".

    The fields are those of `fda`. The list belongs to the question: it is not cut.
    """
    text, value = _text_and_value(record)
    page, mark, keys = text.partition(SUMMARY)
    document = page.rstrip()
    parts = document, page[len(document) :], mark + keys
    if not mark:
        parts = _at_the_last_line(text, record)
    return Passage(record.id, *parts, (value,), _document_id(record), _about(record))


def question_answering(record: Record) -> Passage | None:
    """Read {"context" (or "passage"), "question", "answers"}; None where there is no answer.

    With "orig_question" the question is what Arora et al. made of it, the beginning of a sentence
    that the answer completes, and the prompt is theirs; the question itself is asked as Liu et al.
    2023 (arXiv 2307.03172) do.

    Source: Arora et al. 2024 (arXiv 2407.05483) for nq, triviaqa and drop.
    """
    field = "passage" if "passage" in record.fields else "context"
    text = _MARKS.sub("", text_of(record.fields, field, record.where)).strip()
    question = text_of(record.fields, "question", record.where).strip()
    answers = answers_of(record)
    if not answers or not question:
        return None
    found = sorted(answers, key=lambda answer: answer.lower() not in text.lower())
    both = tuple(found), named(text)
    if "orig_question" not in record.fields:
        opening = f"Question: {question}\n\n"
        return Passage(record.id, text, "\n\n", f"Question: {question}\nAnswer:", *both, opening)
    while text.lower().endswith(question.lower()):
        text = text[: -len(question)].strip()
    opening = text_of(record.fields, "orig_question", record.where).strip().strip(":")
    return Passage(record.id, text.strip("."), " ", question, *both, f"{opening} ", ".")


def altqa(record: Record) -> Passage:
    """Read {"content": what to do, "Document:", page, "Question:", question, "answer": a number}.

    The numbers of the page were altered, so that weights cannot know the answer. In half of the
    records the question stands before the page: here it stands after it, as `question_first` says.

    Source: Dong et al. 2023 (arXiv 2309.13345), RUCAIBox/BAMBOO `prompt.json`, without the space
        after "Answer:", which a text model would have to begin a number after.
    """
    content = text_of(record.fields, "content", record.where)
    answer = text_of(record.fields, "answer", record.where).strip()
    found = _ALTQA.fullmatch(content)
    question = found and (found["before"] or found["after"])
    if not found or not question:
        raise InputError(
            f'{record.where}: \'content\' must be a task, "Document:" and "Question:" with a line '
            "end after each and an empty line before"
        )
    task, page = found["task"], found["page"].strip()
    asked = f"Question:\n{question.strip()}\n\n"
    return Passage(
        record.id,
        page,
        "\n\n",
        f"{asked}{_A_NUMBER}",
        (answer,),
        named(page),
        opening=f"{task}\n\n{asked}Document:\n",
        start=f"{task}\n\nDocument:\n",
    )


def pairs(record: Record) -> Passage:
    """Read {"prompt", "answer"}, as a source of pairs does: the prompt is the question, alone."""
    prompt, answer = (text_of(record.fields, f, record.where) for f in ("prompt", "answer"))
    if not answer.strip():
        raise InputError(f'{record.where}: field "answer" is empty: nothing to ask for')
    return Passage(record.id, "", "", prompt, (answer,), named(prompt))


def named(document: str) -> str:
    """Return what a document is called whose text alone tells it from others."""
    return hashlib.sha256(document.encode("utf-8", "replace")).hexdigest()[:16]


def following(prompt: str, answer: str) -> str:
    """Return an answer as it follows a prompt, parted by a space at least."""
    is_parted = prompt[-1:].isspace() or answer[:1].isspace()
    return answer if is_parted else f" {answer}"


def answers_of(record: Record) -> list[str]:
    """Return the texts under "answers", each once: a list of them, or a list under "text".

    Raises:
        InputError: there is nothing of the kind.
    """
    if "answers" not in record.fields:
        text_of(record.fields, "answers", record.where)  # says what is there
    found = record.fields["answers"]
    if isinstance(found, dict):
        found = found.get("text")
    if not isinstance(found, list) or not all(isinstance(answer, str) for answer in found):
        raise InputError(f'{record.where}: field "answers" must be a list of texts')
    return list(dict.fromkeys(answer.strip() for answer in found if answer.strip()))


DATASETS: dict[RecallSet, DataSet] = {
    "squad": DataSet(("text", "value"), squad, ("contains",)),
    "fda": DataSet(("doc_id", "key", "text", "value"), fda, ("contains",)),
    "swde": DataSet(("doc_id", "key", "text", "value"), swde, ("contains",)),
    "nq": DataSet(None, question_answering, ("contains",)),
    "triviaqa": DataSet(None, question_answering, ("contains", "squad_em", "squad_f1")),
    "drop": DataSet(None, question_answering, ("contains",)),
    "altqa": DataSet(("content", "answer"), altqa, ("altqa_accuracy", "first_number")),
    "squad_qa": DataSet(None, question_answering, ("squad_f1", "squad_em", "contains")),
    "pairs": DataSet(("prompt", "answer"), pairs, ("exact", "contains", "squad_f1")),
}


def _text_and_value(record: Record) -> tuple[str, str]:
    text, value = (text_of(record.fields, f, record.where).strip() for f in ("text", "value"))
    return text, value


def _document_id(record: Record) -> str:
    return text_of(record.fields, "doc_id", record.where)


def _about(record: Record) -> str:
    """Return how Arora et al. 2024 (arXiv 2407.05483) say first which key will be asked for."""
    key = text_of(record.fields, "key", record.where).strip()
    return f"Information about {key[:1].upper()}{key[1:]}. "


def _at_the_last_line(text: str, record: Record) -> tuple[str, str, str]:
    """Part a prompt at its last line: (what is before, the line end and spaces, the last line)."""
    before, end, question = text.rpartition("\n")
    if not end:
        raise InputError(f"{record.where}: 'text' must be a document, a line end and a question")
    document = before.rstrip()
    return document, text[len(document) : len(text) - len(question)], question

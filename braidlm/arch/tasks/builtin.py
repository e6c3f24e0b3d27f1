"""Tasks that can be asked by name of any model that reads text, with their published settings."""

from __future__ import annotations

from typing import NamedTuple

from braidlm.arch.symbols import MADName
from braidlm.arch.tasks import (
    AnyTask,
    BiographiesTask,
    ChoiceTask,
    CopyingTask,
    HarnessTask,
    LongTextTask,
    MADTask,
    MultiDocTask,
    PhonebookKeysTask,
    PhonebookTask,
    RecallTask,
    RulerTask,
)
from braidlm.arch.tasks.harness import PREFIX
from braidlm.arch.tasks.ruler import RulerName

S_NIAH: tuple[RulerName, ...] = ("niah_single_1", "niah_single_2", "niah_single_3")


class Builtin(NamedTuple):
    """A task that no recipe has to declare."""

    task: AnyTask
    line: str
    """What it asks, in one line."""


RULER: dict[RulerName, str] = {
    "niah_single_1": "a number in a repeated noise",
    "niah_single_2": "a number in an essay",
    "niah_single_3": "a uuid in an essay",
    "niah_multikey_1": "a number in an essay, among three of other keys",
    "niah_multikey_2": "a number among nothing but others",
    "niah_multikey_3": "a uuid among nothing but others, its key a uuid too",
    "niah_multivalue": "all four numbers of a key in an essay",
    "niah_multiquery": "the numbers of four keys in an essay",
    "vt": "all variables that a chain of assignments gives one value",
    "cwe": "the ten most common words of a numbered list",
    "fwe": "the three most frequent words of a coded text",
    "qa_1": "a question of SQuAD among documents",
    "qa_2": "a question of HotpotQA among documents",
}
"""RULER's 13 tasks."""


MAD: dict[MADName, str] = {
    "in_context_recall": "symbols: the value that a key had before",
    "noisy_in_context_recall": "symbols: the same among noise",
    "fuzzy_in_context_recall": "symbols: the same with keys and values of several symbols",
    "selective_copying": "symbols: those among blanks, in their order",
    "memorization": "symbols: the value of a key, the same in every item",
    "compression": "symbols: a string, given back",
}
"""MAD's six tasks."""


HARNESS: dict[str, str] = {
    "hellaswag": "how a scene goes on, of four endings",
    "piqa": "how a thing is done, of two ways",
    "arc_easy": "questions of science at school, of four answers",
    "arc_challenge": "those that word statistics did not answer",
    "winogrande": "whom a sentence means, of two",
    "boolq": "a passage, then a question of yes or no",
    "openbookqa": "a fact of science put to use, of four answers",
    "copa": "a cause or an effect, of two",
    "sciq": "a passage of science, then a question, of four answers",
    "social_iqa": "why people do what they do, of three answers",
    "commonsense_qa": "questions of common sense, of five answers",
    "lambada_openai": "the last word of a passage",
    "truthfulqa_mc1": "questions that people answer wrongly, one answer right",
    "truthfulqa_mc2": "the same, several answers right",
}
"""Tasks of lm-evaluation-harness that are asked zero-shot."""


def _ruler() -> dict[str, Builtin]:
    found = {
        f"ruler_{name}": Builtin(RulerTask(task=name, name=f"ruler_{name}", n_items=500), line)
        for name, line in RULER.items()
    }
    lengths = (1024, 2048, 4096, 8192)
    for i, name in enumerate(S_NIAH, 1):
        task = RulerTask(task=name, name=f"s_niah_{i}", lengths=lengths)
        found[task.name] = Builtin(task, f"{RULER[name]}, at lengths from 1K to 8K")
    depths = tuple(float(d) for d in range(0, 101, 10))
    city = RulerTask(task="niah_city", name="niah_city", lengths=lengths, depths=depths, n_items=20)
    return found | {"niah_city": Builtin(city, "a city's number in an essay, by length and depth")}


BUILTIN: dict[str, Builtin] = {
    "squad": Builtin(
        RecallTask(dataset="squad"), "a passage of Wikipedia, then a sentence of it to complete"
    ),
    "fda": Builtin(RecallTask(dataset="fda", name="fda"), "a report, then a key to give its value"),
    "swde": Builtin(
        RecallTask(dataset="swde", name="swde"), "a web page, then a key to give its value"
    ),
    "nq": Builtin(RecallTask(dataset="nq", name="nq"), "a page of Wikipedia, then a question"),
    "triviaqa": Builtin(
        RecallTask(dataset="triviaqa", name="triviaqa"), "a web page, then a trivia question"
    ),
    "drop": Builtin(
        RecallTask(dataset="drop", name="drop"), "a passage, then a question that may need counting"
    ),
    "altqa": Builtin(
        RecallTask(dataset="altqa", name="altqa"),
        "a page of Wikipedia with altered numbers, then a question about one",
    ),
    "squad_qa": Builtin(
        RecallTask(dataset="squad_qa", name="squad_qa"),
        "a passage of Wikipedia, then a question of SQuAD about it",
    ),
    "nq_documents": Builtin(
        MultiDocTask(
            dataset="nq",
            name="nq_documents",
            n_documents=(10, 20, 30),
            depths=(0.0, 25.0, 50.0, 75.0, 100.0),
            n_items=500,
        ),
        "a question that one of 10, 20, 30 passages answers, by where that stands",
    ),
    "hotpotqa": Builtin(
        MultiDocTask(dataset="hotpotqa", name="hotpotqa"),
        "a question that two of ten paragraphs answer together",
    ),
    "mmlu": Builtin(ChoiceTask(), "57 subjects, five examples: answers listed, a letter is scored"),
    "mmlu_text": Builtin(
        ChoiceTask(name="mmlu_text", format="letters_and_text"),
        "the same, a letter and its answer are scored",
    ),
    "mmlu_cloze": Builtin(
        ChoiceTask(name="mmlu_cloze", format="cloze"), "the same, no list, answers are scored"
    ),
    **{name: Builtin(HarnessTask(name=name, task=name), line) for name, line in HARNESS.items()},
    "phonebook": Builtin(
        PhonebookTask(lengths=(512, 1024, 2048), orders=("standard", "reversed")),
        "a random phonebook, two examples, then a name to look up",
    ),
    "phonebook_keys": Builtin(
        PhonebookKeysTask(lengths=(512, 1024, 2048)),
        "a random phonebook, an example, then four names to look up at once",
    ),
    "facts_from_weights": Builtin(
        BiographiesTask(),
        "memory in weights: facts about generated people that were trained on, in new forms",
    ),
    "facts_in_context": Builtin(
        BiographiesTask(memory="context", name="facts_in_context"),
        "memory in context: a new person's biography, then a fact of it in new forms",
    ),
    "longtext": Builtin(
        LongTextTask(),
        "loss by position in documents of 4096 tokens or more, the run's held-out ones",
    ),
    **_ruler(),
    **{
        f"mad_{name}": Builtin(MADTask(task=name, name=f"mad_{name}", n_items=1280), line)
        for name, line in MAD.items()
    },
    "copying": Builtin(
        CopyingTask(n_symbols=(8, 16, 32, 64, 128)), "strings of letters, each copied after a sign"
    ),
}


def builtin(name: str) -> list[AnyTask]:
    """Return the built-in tasks that a name, a kind or "<kind>-<name>" stands for; else none.

    "lm_eval:NAME" stands for whatever lm-evaluation-harness calls so.

    Raises:
        InputError: a name of the harness that no result can have.
    """
    if name in BUILTIN:
        return [BUILTIN[name].task]
    if name.startswith(PREFIX):
        task = name.removeprefix(PREFIX)
        return [HarnessTask.of({"name": task, "task": task}, f"task '{name}'")]
    tasks = [entry.task for entry in BUILTIN.values()]
    return [task for task in tasks if name in (task.kind, task.name, f"{task.kind}-{task.name}")]

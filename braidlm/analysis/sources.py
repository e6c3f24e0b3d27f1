"""Which documents each instrument reads, by what was asked for and what it can use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property

from braidlm.analysis.inputs import (
    Inputs,
    check_numbers,
    held_out,
    n_documents_of,
    of_file,
    of_task,
)
from braidlm.analysis.instrument import Instrument
from braidlm.arch import Recipe
from braidlm.arch.symbols import MQARSource, SymbolSource
from braidlm.arch.tasks import MQARTask, PhonebookTask
from braidlm.data.tokenizer import Tokenizer, load_tokenizer
from braidlm.errors import InputError
from braidlm.files import read_json
from braidlm.interop.imports import TRAVELLING
from braidlm.interop.own import MODEL_TYPE
from braidlm.runs import Run
from braidlm.tasks.choose import choose_tasks

RECALL = (MQARTask, PhonebookTask)
PROBE = PhonebookTask(name="phonebook-probe")
"""Asked where no recall task is declared: 256 tokens of names and numbers, two worked examples."""


@dataclass(frozen=True)
class Sources:
    """What was asked for.

    Raises:
        InputError: text and task at once, or numbers that cannot be.
    """

    run: Run
    recipe: Recipe
    text: str | os.PathLike[str] | None
    task: str | None
    context: int | None
    asked_documents: int | None
    """None: `inputs.n_documents_of` the context."""

    def __post_init__(self) -> None:
        check_numbers(self.context, self.asked_documents)
        if self.text is not None and self.task is not None:
            raise InputError("--text and --task: give one of them, each is what the model reads")

    def label(self, inputs: Inputs | str) -> str:
        """Return what result files are called after: "" for held-out documents.

        A result that says why an instrument reads nothing is called after what was asked for, so
        that it never takes the place of what was found in other documents.
        """
        if isinstance(inputs, Inputs):
            return inputs.name
        return "" if self.task is None and self.text is None else self._wanted.name

    @property
    def n_documents(self) -> int:
        """Documents at most."""
        context = self.context or self.recipe.data.seq_len
        return self.asked_documents or n_documents_of(context)

    def of(self, instrument: Instrument) -> Inputs | str:
        """Return what an instrument reads, or half a sentence why there is nothing for it.

        Raises:
            InputError: see `analysis.inputs`.
        """
        if instrument.needs == "recall" and self.task is None:
            if self.text is not None:
                return "it asks recall prompts, not a text: use --task NAME"
            return self._recall
        if instrument.needs == "text" and self.task is not None:
            return "it reads text, not recall prompts: leave --task out"
        return self._wanted

    @cached_property
    def _wanted(self) -> Inputs:
        """What was named; by default held-out documents."""
        recipe, numbers = self.recipe, (self.context, self.n_documents)
        if self.task is not None:
            (task, *others) = choose_tasks(recipe, [self.task])
            if others:
                names = ", ".join(one.name for one in (task, *others))
                raise InputError(f"--task {self.task}: names several tasks ({names}); name one")
            tokenizer = None if isinstance(task, MQARTask) else self._tokenizer
            return of_task(task, recipe, tokenizer, *numbers)
        if self.text is not None:
            return of_file(self.text, recipe, self._tokenizer, *numbers)
        return held_out(recipe, self._tokenizer, *numbers)

    @cached_property
    def _recall(self) -> Inputs | str:
        """For instruments that need recall: the recipe's first task of it, or else a probe."""
        task = next((t for t in self.recipe.tasks if isinstance(t, RECALL)), None)
        if task is not None:
            tokenizer = None if isinstance(task, MQARTask) else self._tokenizer
            return of_task(task, self.recipe, tokenizer, None, self.n_documents)
        try:
            return self._probe
        except InputError as error:
            return f"the recipe has no recall task, and no probe can be asked: {error}"

    @property
    def _probe(self) -> Inputs:
        """Look-ups of a recipe that declares none: in its symbols, or in a phonebook.

        Raises:
            InputError: other symbols, no tokenizer, or ids that the model has no embedding for.
        """
        sources, spec = self.recipe.data.sources, self.recipe.spec
        for source in sources:
            if isinstance(source, MQARSource):
                task = MQARTask(name="mqar-probe", source=source.name)
                return of_task(task, self.recipe, None, None, self.n_documents)
        if all(isinstance(source, SymbolSource) for source in sources):
            raise InputError("the model was trained on symbols, which are no text")
        if self._tokenizer.vocab_size > spec.vocab_size:
            raise InputError(f"vocab_size = {spec.vocab_size} is less than the tokenizer's ids")
        return of_task(PROBE, self.recipe, self._tokenizer, None, self.n_documents)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        """Load it.

        Raises:
            InputError: the model was imported without one, so that no text means anything to it.
        """
        name, config = self.recipe.data.tokenizer, self.run.path / TRAVELLING / "config.json"
        if name == "bytes" and config.is_file() and _is_foreign(read_json(config)):
            raise InputError(
                f"{self.run.path}: the model was imported without a tokenizer, so that it can "
                "read no text; import it again from a folder with its tokenizer"
            )
        return load_tokenizer(name)


def _is_foreign(config: object) -> bool:
    return isinstance(config, dict) and config.get("model_type") != MODEL_TYPE

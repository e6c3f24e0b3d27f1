"""Declaration of questions about generated people: out of the weights, or in context."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.tasks.base import RESULT_NAME, ModelTask

Memory = Literal["weights", "context"]
AskedForm = Literal["recited", "told", "others", "new", "question", "new_question"]

NAMES: dict[Memory, str] = {"weights": "facts_from_weights", "context": "facts_in_context"}
"""What a task is called if it does not say."""


class BiographiesTask(ModelTask):
    """Facts about generated people, asked with nothing before the question or with a biography.

    Source: Allen-Zhu and Li 2023 (arXiv 2309.14316) for facts out of weights; the forms are ours.
    """

    kind: Literal["biographies"] = "biographies"
    """The task's kind."""
    memory: Memory = "weights"
    """weights: about people that were trained on, nothing stands before the question; context:
    about people that no training sees, their biographies stand before it."""
    name: str = Field(default=NAMES["weights"], pattern=RESULT_NAME)
    """Name of the result; default: facts_from_weights or facts_in_context."""
    source: str = ""
    """The recipe's source of biographies whose people are asked about; empty: its only one."""
    folder: str = ""
    """Instead of a source: the folder of `braid paraphrase --method biographies` that was trained
    on; empty: none."""
    forms: tuple[AskedForm, ...] = Field(default=("new", "new_question"), min_length=1)
    """How facts are asked. recited (weights alone): the biography up to the answer; told: a
    sentence in the form that the biography tells the fact in; others: in a form that other people's
    biographies use; new: in one that none uses; question: a question that training may hold, about
    other people; new_question: one that it never holds."""
    n_items: int = Field(default=100, gt=0)
    """People that are asked about at most, each for every attribute in every form."""
    n_biographies: tuple[int, ...] = Field(default=(1,), min_length=1)
    """Context: biographies in the prompt, of which one answers; each number is reported apart."""
    reads: Literal[1, 2] = 1
    """Context: 2: they stand in the prompt twice. Source: Arora et al. 2024 (arXiv 2407.05483)."""

    @model_validator(mode="before")
    @classmethod
    def _named_after_the_memory(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("memory") not in NAMES:
            return data
        return {"name": NAMES[data["memory"]], **data}

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        for field in ("forms", "n_biographies"):
            values = getattr(self, field)
            if len(set(values)) < len(values):
                raise ValueError(f"{field} = {list(values)}: every value may stand there once")
        if any(n < 1 for n in self.n_biographies):
            raise ValueError(f"n_biographies = {list(self.n_biographies)}: must be at least 1")
        if self.source and self.folder:
            raise ValueError(f"folder = '{self.folder}': give it or source = '{self.source}'")
        if self.memory == "weights" and self.n_biographies != (1,):
            raise ValueError(
                f"n_biographies = {list(self.n_biographies)}: only with memory = 'context'"
            )
        if self.memory == "weights" and self.reads != 1:
            raise ValueError(f"reads = {self.reads}: only with memory = 'context'")
        if self.memory == "context" and "recited" in self.forms:
            raise ValueError("forms: 'recited' needs memory = 'weights'")
        return self

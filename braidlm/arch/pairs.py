"""Declaration of prompts and answers as training data."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.sources import Corpus
from braidlm.arch.tasks.recall import PUBLISHED, RecallSet


class PairsSource(Corpus):
    """Prompts and answers: the answer is learnt, the prompt is read."""

    kind: Literal["pairs"] = "pairs"
    """The source's kind."""
    name: str = "pairs"
    """Name in metrics and results."""
    prompt: str = "prompt"
    """Key of the prompt in a record."""
    answer: str = "answer"
    """Key of the answer in a record."""
    dataset: RecallSet | None = None
    """A data set of the recall tasks, whose records are read as those tasks read them: prompt and
    answer are made of them. Its path is by default where it was published; default: none."""
    reads: Literal[1, 2] = 1
    """Of a data set: how often the document stands in the prompt, as in the task."""
    question_first: bool = False
    """Of a data set: whether the question stands before the document too, as in the task."""
    length: int = Field(default=0, ge=0)
    """Of a data set: tokens at most of bos, prompt, answer and eos, to which the document is cut
    with the answer inside; 0: nothing is cut."""
    loss_on_prompt: bool = False
    """Whether the prompt is learnt too."""
    too_long: Literal["refuse", "cut_prompt", "drop"] = "refuse"
    """What happens to a pair of more than seq_len tokens: the source is refused, the pair's prompt
    is cut from the left, or it is left out."""

    @model_validator(mode="before")
    @classmethod
    def _where_it_was_published(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(name := data.get("dataset"), str):
            return data
        return {"path": {**PUBLISHED}.get(name, name), "name": name, **data}

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        if self.prompt == self.answer:
            raise ValueError(f"answer = '{self.answer}': must be another field than the prompt")
        if self.path == "python-docs":
            raise ValueError("path = 'python-docs': holds no pairs")
        fields = type(self).model_fields
        of_records, of_data_sets = ("prompt", "answer"), ("reads", "question_first", "length")
        for name in of_data_sets if self.dataset is None else of_records:
            if (value := getattr(self, name)) != fields[name].default:
                what = "needs a dataset" if self.dataset is None else "goes with no dataset"
                raise ValueError(f"{name} = {value!r}: {what} (dataset = {self.dataset!r})")
        return self

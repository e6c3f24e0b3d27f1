"""Declaration of questions about one of many documents."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.sources import PathText
from braidlm.arch.tasks.base import RESULT_NAME, DataTask

MultiDocSet = Literal["nq", "hotpotqa"]

MULTIDOC_PUBLISHED: dict[MultiDocSet, tuple[str, str]] = {
    "nq": ("hf:hazyresearch/based_nq_512", ""),
    "hotpotqa": ("hf:hotpotqa/hotpot_qa", "distractor"),
}
"""Where each data set lies if a task does not say, and in which configuration."""


class MultiDocTask(DataTask):
    """A question whose answer stands in one document (HotpotQA: two) among others.

    Source: Liu et al. 2023 (arXiv 2307.03172), prompt and score; Yang et al. 2018 (arXiv
        1809.09600) for hotpotqa.
    """

    kind: Literal["multidoc"] = "multidoc"
    """The task's kind."""
    name: str = Field(default="nq", pattern=RESULT_NAME)
    """Name of the result; default: that of the data set."""
    dataset: MultiDocSet = "nq"
    """nq: a question of Natural Questions and the passage that answers it; hotpotqa: a question
    that needs two paragraphs, and eight that were found with it."""
    path: PathText = MULTIDOC_PUBLISHED["nq"][0]
    """A file, a folder, or "hf:" and a name; default: where the data set was published."""
    n_documents: tuple[int, ...] = ()
    """Documents in a prompt, those with the answer included: first those that came with the
    question, then other questions' that hold no accepted answer. Empty: those that came with it.
    With `lengths` it is not used: as many as fit."""
    depths: tuple[float, ...] = ()
    """Where the documents with the answer stand, from 0 (first) to 100 percent (last) of the
    others; empty: drawn, or as they came where `n_documents` and `lengths` are empty too."""
    max_new_tokens: int = Field(default=100, gt=0)
    """Tokens of the answer at most; it ends before at a line end. Source: Liu et al. 2023."""

    @model_validator(mode="before")
    @classmethod
    def _named_after_the_data_set(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("dataset", "nq") not in MULTIDOC_PUBLISHED:
            return data
        dataset = data.get("dataset", "nq")
        path, config = MULTIDOC_PUBLISHED[dataset]
        there = {} if "path" in data else {"path": path, "config": config}
        return {"name": dataset, **there, **data}

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        for field in ("n_documents", "depths"):
            values = getattr(self, field)
            if len(set(values)) < len(values):
                raise ValueError(f"{field} = {list(values)}: every value may stand there once")
        least = 2 if self.dataset == "hotpotqa" else 1
        if any(n < least for n in self.n_documents):
            raise ValueError(f"n_documents = {list(self.n_documents)}: must be at least {least}")
        if not all(0 <= depth <= 100 for depth in self.depths):
            raise ValueError(f"depths = {list(self.depths)}: must be from 0 to 100")
        return self

"""Declaration of tasks with something hidden in a long text: RULER, and needles by depth."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.sources import PathText
from braidlm.arch.tasks.base import RESULT_NAME, ModelTask, check_levels

RulerName = Literal[
    "niah_single_1",
    "niah_single_2",
    "niah_single_3",
    "niah_multikey_1",
    "niah_multikey_2",
    "niah_multikey_3",
    "niah_multivalue",
    "niah_multiquery",
    "vt",
    "cwe",
    "fwe",
    "qa_1",
    "qa_2",
    "niah_city",
]
ONE_NEEDLE = (
    *(f"niah_{kind}_{i}" for kind in ("single", "multikey") for i in (1, 2, 3)),
    "niah_city",
)
"""Tasks with one answer, whose depth may be asked for."""
PUBLISHED = {
    "qa_1": ("hf:rajpurkar/squad_v2", ""),
    "qa_2": ("hf:hotpotqa/hotpot_qa", "distractor"),
}
"""Where documents lie if a task does not say, and in which configuration."""


class RulerTask(ModelTask):
    """Something hidden in a long text, and a question about it.

    Source: Hsieh et al. 2024 (arXiv 2404.06654); NVIDIA/RULER. niah_city: Bae et al. 2025 (arXiv
        2510.04800). niah_single_1..3 are S-NIAH-1..3 of Yang et al. 2024 (arXiv 2412.06464).
    """

    kind: Literal["ruler"] = "ruler"
    """The task's kind."""
    name: str = Field(default="needle", pattern=RESULT_NAME)
    """Name of the result."""
    task: RulerName = "niah_single_1"
    """Which one; niah_city has the city's needle of Bae et al."""
    lengths: tuple[int, ...] = Field(default=(4096,), min_length=1)
    """Tokens of prompt and answer together, at most."""
    depths: tuple[float, ...] = ()
    """Where the needle stands, from 0 to 100 percent of the text; empty: anywhere, as in RULER."""
    n_items: int = Field(default=100, gt=0)
    """Items per length, or per length and depth; RULER has 500 per length."""
    depth_bins: int = Field(default=10, gt=0)
    """Bins of the table by depth, where `depths` is empty."""
    haystack: PathText = "python-docs"
    """Text of essays: a file (.txt, .jsonl, .parquet, .json with one text; also packed), a folder,
    "python-docs" or "hf:NAME"; RULER has Paul Graham's, such as "hf:baber/paul_graham_essays"."""
    haystack_field: str = "text"
    """Key or column of the text."""
    documents: str = ""
    """qa_1, qa_2: file of SQuAD or HotpotQA, as published or one question a line, or "hf:NAME";
    default: where they were published."""
    documents_config: str = ""
    """"hf:" alone: the data set's configuration; its split is "validation"."""
    words: Literal["built-in", "wonderwords"] = "built-in"
    """Words of keys and lists: our own short list, or RULER's, from the package of that name."""

    @model_validator(mode="before")
    @classmethod
    def _with_published_documents(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("task") not in PUBLISHED or "documents" in data:
            return data
        path, config = PUBLISHED[data["task"]]
        return {**data, "documents": path, "documents_config": config}

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        check_levels(self.lengths, self.depths)
        if self.depths and self.task not in ONE_NEEDLE:
            raise ValueError(
                f"depths = {list(self.depths)}: only for a task with one answer "
                f"({', '.join(ONE_NEEDLE)}), not {self.task}"
            )
        if self.task in PUBLISHED and not self.documents:
            raise ValueError(f"documents = '': {self.task} needs a file, or \"hf:\" and a name")
        return self

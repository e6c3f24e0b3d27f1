"""Declaration of recall from real documents: what a text said is asked for after it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from braidlm.arch.sources import PathText
from braidlm.arch.tasks.base import RESULT_NAME, DataTask

RecallSet = Literal["squad", "fda", "swde", "nq", "triviaqa", "drop", "altqa", "squad_qa", "pairs"]
RecallTemplate = Literal["published", "labelled", "instructed", "fenced", "joined"]

PUBLISHED: dict[RecallSet, str] = {
    "squad": "hf:hazyresearch/based-squad",
    "fda": "hf:hazyresearch/based-fda",
    "swde": "hf:hazyresearch/based-swde-v2",
    "nq": "hf:hazyresearch/based_nq_2048",
    "triviaqa": "hf:hazyresearch/based_triviaqa",
    "drop": "hf:hazyresearch/based_drop",
    "altqa": "altqa_4k.jsonl",
    "squad_qa": "hf:rajpurkar/squad",
    "pairs": "pairs.jsonl",
}
"""Where each data set lies if a task does not say; altqa is a file of RUCAIBox/BAMBOO."""


class RecallTask(DataTask):
    """Recall from real documents, scored on the greedy continuation of the prompt.

    Source: Arora et al. 2024 (arXiv 2402.18668) for squad, fda and swde; Arora et al. 2024 (arXiv
        2407.05483) for nq, triviaqa and drop; Dong et al. 2023 (arXiv 2309.13345) for altqa.
    """

    kind: Literal["recall"] = "recall"
    """The task's kind."""
    name: str = Field(default="squad", pattern=RESULT_NAME)
    """Name of the result; default: that of the data set."""
    dataset: RecallSet = "squad"
    """squad: a passage, then a sentence of it to complete; fda: a report, then a key of it; swde: a
    web page, then keys of it with their values, the last one without; nq, triviaqa, drop: a
    passage and a question; altqa: a page whose numbers were altered, and a question about one;
    squad_qa: SQuAD's passage and question; pairs: a prompt of your own, asked as it is."""
    path: PathText = PUBLISHED["squad"]
    """A file, a folder, or "hf:" and a name; default: where the data set was published."""
    in_text: bool = False
    """Whether only questions are asked whose answer stands in the text word for word: recall alone,
    without the counting that many of drop need."""
    held_out: float = Field(default=0.0, ge=0, lt=1)
    """Share of the documents that are asked about, chosen by their hash as `data.held_out` chooses
    what is not trained on: at most that share, and training saw none of them; 0: all."""
    templates: tuple[RecallTemplate, ...] = ()
    """Wordings around text and question in which every question is put; more than one tells how
    much they matter. Empty: as published, and nothing is reported apart."""
    max_new_tokens: int = Field(default=48, gt=0)
    """Tokens of the answer at most; it ends before at a line end. Source: Arora et al. 2024."""

    @model_validator(mode="before")
    @classmethod
    def _named_after_the_data_set(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("dataset", "squad") not in PUBLISHED:
            return data
        dataset = data.get("dataset", "squad")
        return {"name": dataset, "path": PUBLISHED[dataset], **data}

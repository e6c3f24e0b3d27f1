"""Declaration of multiple choice: what of several answers a model finds the most probable."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.sources import PathText
from braidlm.arch.tasks.base import RESULT_NAME, ModelTask

ChoiceSet = Literal["mmlu", "arc_easy", "arc_challenge", "openbookqa", "commonsense_qa"]
Format = Literal["letters", "letters_and_text", "cloze"]
ChoiceTemplate = Literal["standard", "parentheses", "numbers", "small_letters", "line", "bare"]

PUBLISHED: dict[ChoiceSet, tuple[str, str, str, str]] = {
    "mmlu": ("hf:cais/mmlu", "all", "test", "dev"),
    "arc_easy": ("hf:allenai/ai2_arc", "ARC-Easy", "test", "train"),
    "arc_challenge": ("hf:allenai/ai2_arc", "ARC-Challenge", "test", "train"),
    "openbookqa": ("hf:allenai/openbookqa", "main", "test", "train"),
    "commonsense_qa": ("hf:tau/commonsense_qa", "", "validation", "train"),
}
"""Where each data set lies: name, configuration, the split that is asked, that of the examples."""


class ChoiceTask(ModelTask):
    """Questions with several answers, of which one is right.

    Source: Hendrycks et al. 2021 (arXiv 2009.03300) for mmlu and "letters"; Waleffe et al. 2024
        (arXiv 2406.07887), section 3, for the three formats.
    """

    kind: Literal["choice"] = "choice"
    """The task's kind."""
    name: str = Field(default="mmlu", pattern=RESULT_NAME)
    """Name of the result; default: that of the data set."""
    dataset: ChoiceSet = "mmlu"
    """Which questions: their fields are those of the data set on the Hugging Face Hub."""
    format: Format = "letters"
    """letters: the answers are listed, their letters are scored; letters_and_text: listed, a letter
    and its answer are scored; cloze: nothing is listed, the answers are scored."""
    path: PathText = PUBLISHED["mmlu"][0]
    """A folder of files `DATASET/SPLIT.jsonl` (also .gz, .xz, .zst), or "hf:" and a name of the
    Hugging Face Hub; default: where the data set was published."""
    n_shots: int = Field(default=5, ge=0)
    """Worked examples before a question: the first of its subject; default: 5 for mmlu, else 0."""
    subjects: tuple[str, ...] = ()
    """Those that are asked; empty: all."""
    templates: tuple[ChoiceTemplate, ...] = Field(default=("standard",), min_length=1)
    """Wordings in which every question is put; more than one tells how much they matter."""
    n_items: int = Field(default=1_000_000, gt=0)
    """Questions at most, chosen by the hash of their names."""

    @model_validator(mode="before")
    @classmethod
    def _as_the_data_set_is_asked(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("dataset", "mmlu") not in PUBLISHED:
            return data
        dataset = data.get("dataset", "mmlu")
        shots = 5 if dataset == "mmlu" else 0
        return {"name": dataset, "path": PUBLISHED[dataset][0], "n_shots": shots, **data}

    @model_validator(mode="after")
    def _values_differ(self) -> Self:
        for field in ("templates", "subjects"):
            values = getattr(self, field)
            if len(set(values)) < len(values):
                raise ValueError(f"{field} = {list(values)}: every value may stand there once")
        return self

"""The declaration of a conversion: which attention becomes what, and how it is trained to be it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.config import Config
from braidlm.arch.experiment import DataConfig, TrainConfig
from braidlm.arch.recipe import Recipe
from braidlm.arch.sources import PathText
from braidlm.arch.spec import Spec
from braidlm.arch.tasks import AnyTask
from braidlm.arch.tasks.base import RESULT_NAME
from braidlm.errors import InputError

Layer = Annotated[int, Field(ge=0)]


class StageConfig(Config):
    """One training of the student; what it leaves out is that of ``[train]`` and ``[data]``.

    Source: mixers, logits, text: HALO (arXiv 2601.22156); hidden: Priming (arXiv 2605.08301).
    """

    kind: Literal["mixers", "hidden", "logits", "text"]
    """What is lessened. mixers: the error of each new mixer on what the teacher's attention reads
    and gives; hidden: that of the final hidden states; logits: KL(teacher || student); text: the
    loss of the text itself."""
    name: str = Field(default="", pattern=f"^$|{RESULT_NAME}")
    """Name of its folder and of its rows. Default: the kind."""
    trained: Literal["new", "mixers", "all"] = "new"
    """new: what the teacher does not have; mixers: these, every other mixer but MLPs and experts,
    and the norms of all these; all: everything. What is not trained has no optimizer state."""
    steps: int = Field(gt=0)
    """Optimizer steps."""
    lr: float = Field(gt=0)
    """Peak learning rate. HALO: 1e-3 for mixers, 1e-4 for logits, 1e-5 for text."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear warm-up."""
    min_lr_ratio: float = Field(default=0.1, ge=0, le=1)
    """Last learning rate as a share of `lr`; HALO: 0.01 for mixers, 0.1 for logits."""
    seq_len: int = Field(default=0, ge=0, le=2**24)
    """Tokens of a row; 0: `data.seq_len`."""
    batch_size: int = Field(default=0, ge=0, le=2**20)
    """Rows of a step; 0: `train.batch_size`."""
    micro_batch_size: int = Field(default=0, ge=0)
    """Rows of a forward pass; 0: `train.micro_batch_size`."""

    @model_validator(mode="after")
    def _only_new_mixers_are_compared(self) -> Self:
        if self.kind == "mixers" and self.trained != "new":
            raise ValueError(
                f"trained = '{self.trained}': a stage of kind 'mixers' compares new mixers alone: "
                "must be 'new'"
            )
        return self

    @property
    def label(self) -> str:
        """What it is called."""
        return self.name or self.kind


class ChooseConfig(Config):
    """How the attentions that stay are found where their number alone is given.

    Source: Priming (arXiv 2605.08301): one layer at a time sees a window, and those stay whose
        replacement hurts most.
    """

    replace: Literal["window", "skip"] = "window"
    """What stands for one attention at a time: its own with a window, or nothing."""
    window: int = Field(default=64, gt=0)
    """Tokens of that window; Priming: 2048, at 32,768 tokens."""
    tasks: tuple[str, ...] = ()
    """Names of the tasks that are asked; default: all of the file."""


class ConvertConfig(Config):
    """From which transformer to which hybrid."""

    teacher: PathText | None = None
    """A run, a checkpoint of one, or a folder of transformers; the command line goes before."""
    pattern: str | None = None
    """The student's sublayers, one for each of the teacher's. Default: made of the next three."""
    keep: int | None = Field(default=None, ge=0)
    """Attentions that stay, chosen by `choose`."""
    keep_layers: tuple[Layer, ...] | None = None
    """Those that stay, numbered from 0 among the teacher's attentions."""
    into: str = Field(default="M", min_length=1)
    """What the others become: a letter, or branches such as {*M}."""
    mixers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Fields of the new letters beside those that the teacher's shapes give; checked as part of the
    student's model."""
    share: float = Field(default=0.0, ge=0, lt=1)
    """Factor on what a new branch adds beside an attention, which has the rest; 0: the student
    begins as the teacher's own function."""
    choose: ChooseConfig = ChooseConfig()
    """How the attentions that stay are chosen."""
    stages: tuple[StageConfig, ...] = ()
    """Trainings of the student, in order, after the weights are copied."""

    @model_validator(mode="after")
    def _target_is_told_once(self) -> Self:
        given = [n for n in ("pattern", "keep", "keep_layers") if getattr(self, n) is not None]
        if len(given) != 1:
            told = " and ".join(given) or "none"
            raise ValueError(f"one of pattern, keep and keep_layers must be given, not {told}")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [stage.label for stage in self.stages]
        for name in ("copy", *names):
            if ["copy", *names].count(name) > 1:
                raise ValueError(f"stages: the name '{name}' is used twice; names must differ")
        return self


class Conversion(Config):
    """A conversion file, complete: what it left out was filled in from the teacher's recipe."""

    name: str = "converted"
    """Name of the student's run."""
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of what is drawn and of the order of the data."""
    convert: ConvertConfig
    """Teacher, target and stages."""
    data: DataConfig
    """What the stages read; default: the teacher's."""
    train: TrainConfig = TrainConfig()
    """What the stages have in common; their own fields go before."""
    tasks: tuple[AnyTask, ...] = ()
    """What the teacher, the student after every stage and the student at last are asked."""

    @classmethod
    def from_dict(cls, data: dict[str, Any], where: str = "") -> Self:
        """Read a conversion from plain data.

        Raises:
            InputError: naming the first wrong field.
        """
        try:
            return cls.of(data)
        except InputError as error:
            raise InputError(f"{where}: {error}" if where else str(error)) from None

    def recipe(self, spec: Spec, stage: int = 0) -> Recipe:
        """Return the recipe of one stage's run; 0: of a run that is not trained.

        Each stage reads other text: its seed is the conversion's and its number.

        Raises:
            InputError: a stage that does not fit the data or the training that it shares.
        """
        fields = self.model_dump(mode="json", exclude_none=True, exclude={"convert"})
        data, train, name = fields["data"], fields["train"], self.name
        if stage:
            own = self.convert.stages[stage - 1]
            name = f"{name} {own.label}"
            data["seq_len"] = own.seq_len or data["seq_len"]
            train |= {k: getattr(own, k) for k in ("steps", "lr", "warmup_steps", "min_lr_ratio")}
            train |= {k: v for k in ("batch_size", "micro_batch_size") if (v := getattr(own, k))}
        fields |= {"name": name, "seed": self.seed + stage, "data": data, "train": train}
        fields["model"] = spec.model_dump(mode="json", exclude_none=True)
        return Recipe.from_dict(fields, f"convert.stages.{stage - 1}" if stage else "")

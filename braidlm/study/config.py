"""The declaration of a study: arms that differ by overrides of one recipe, bases, and seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from braidlm.arch import Recipe
from braidlm.arch.config import Config
from braidlm.arch.match import FACTOR
from braidlm.arch.recipe import read_toml
from braidlm.arch.sources import PathText
from braidlm.errors import InputError
from braidlm.study.budget import Quantity

_OWNED = {"name": "the arm's name", "seed": "the study's seeds"}


Measure = Literal["flops", "params", "cache"]
Keep = Literal["all", "last", "none"]


class Arm(Config):
    """One thing to compare."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Short name; also the name of its folder."""
    label: str = ""
    """What reports call it. Default: the name."""
    recipe: PathText | None = None
    """Path of a recipe of its own, relative to the study's file. Default: the study's."""
    set: tuple[str, ...] = ()
    """Overrides of the recipe, such as 'model.pattern="M-*-"'."""
    bases: tuple[str, ...] | None = None
    """Names of the bases that it starts from, each by itself. Default: all that the study has; an
    empty list: it starts from weights that are drawn."""


class Base(Config):
    """A model that arms start from: trained by the study once per seed, or given for all seeds."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Short name; also the name of its folder."""
    label: str = ""
    """What reports call it. Default: the name."""
    recipe: PathText | None = None
    """Path of the recipe that trains it, relative to the study's file."""
    set: tuple[str, ...] = ()
    """Overrides of that recipe. Its model is the model of every arm that starts from it."""
    init: PathText | None = None
    """Instead of a recipe: a run, a checkpoint of one or a folder in the form of transformers,
    relative to the study's file."""
    match: Measure | None = None
    """What this base has to agree with the reference in. Default: the rule's own `on`."""

    @model_validator(mode="after")
    def _is_trained_or_given(self) -> Self:
        if (self.recipe is None) == (self.init is None):
            raise ValueError(
                f"base '{self.name}': give either a recipe, which trains it, or an init, which has "
                "its weights"
            )
        if self.init is not None and (self.set or self.match):
            raise ValueError(
                f"base '{self.name}': set and match change what a recipe trains; one with an init "
                "stays as it is"
            )
        return self


class Comparison(Config):
    """Two arms whose difference is asked for, declared before anything is seen."""

    arm: str
    """Name of an arm. In a study of several bases also without its base: then once per base."""
    control: str
    """Name of the arm that it is held against, said in the same way."""


class MatchRule(Config):
    """Arms that are resized until they agree with one of them, as `braid match` does it."""

    on: Measure
    """What has to agree: training FLOPs per token, parameters, or cache bytes of one sequence."""
    reference: str
    """Name of what stays as it is: an arm; in a study with bases one that is trained."""
    context: int = Field(default=0, ge=0)
    """Tokens per sequence; 0: for flops the reference's training length, else the study's."""
    factor: float = Field(default=FACTOR, ge=1, le=64)
    """Every field stays within this factor of the arm's own."""


class StudyConfig(Config):
    """Arms x seeds over one recipe."""

    name: str
    """Name of the study."""
    description: str = ""
    """What is asked, in a sentence or two."""
    recipe: PathText
    """Path of the recipe, relative to the study's own file."""
    set: tuple[str, ...] = ()
    """Overrides that every arm has."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1)
    """Seeds; every arm runs with each."""
    jobs: int = Field(default=0, ge=0)
    """Runs at a time, each on its share of the cores; 0: one per GPU, or one per core without."""
    context: int = Field(default=8192, gt=0)
    """Tokens at which caches are compared."""
    keep: Keep = "all"
    """Which weights of an arm stay when its run is done, asked included. all: its checkpoints and
    what it began with; last: its last checkpoint; none: no weights. Results and metrics stay, and
    so do bases that the study trains."""
    require_matched: tuple[Quantity, ...] = ()
    """Quantities in which the arms must agree within 1 %; else nothing starts."""
    match: MatchRule | None = None
    """How arms are resized before anything starts; by default none is."""
    bases: tuple[Base, ...] = ()
    """Models that arms start from; by default every arm starts from weights that are drawn."""
    comparisons: tuple[Comparison, ...] = ()
    """Which arms the report holds against which; by default none by name."""
    outcomes: tuple[str, ...] = ()
    """What the comparisons are about: tasks, each as "<kind>-<name>" for its primary metric, or
    that, ":" and another metric; the others are side effects. Default: all tasks."""
    arms: tuple[Arm, ...] = Field(min_length=1)
    """The arms."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        named: dict[str, list[str]] = {
            "arms": [arm.name for arm in self.arms],
            "bases": [base.name for base in self.bases],
            "seeds": [str(seed) for seed in self.seeds],
        }
        for what, values in named.items():
            for value in values:
                if values.count(value) > 1:
                    raise ValueError(f"{what}: {value} is given twice; they must differ")
        return self

    @model_validator(mode="after")
    def _arms_start_from_bases_that_are(self) -> Self:
        names = [base.name for base in self.bases]
        for arm in self.arms:
            for name in arm.bases or ():
                if name not in names:
                    known = ", ".join(names) or "none is declared"
                    raise ValueError(f"arm '{arm.name}': bases: '{name}' must be one of {known}")
                if (arm.bases or ()).count(name) > 1:
                    raise ValueError(f"arm '{arm.name}': bases: {name} is given twice")
            if arm.name in names:
                raise ValueError(f"arms: '{arm.name}' is the name of a base; names must differ")
        return self

    @model_validator(mode="after")
    def _the_reference_can_be_resized_to(self) -> Self:
        names = [part.name for part in self.models]
        if self.match is not None and self.match.reference not in names:
            raise ValueError(
                f"match.reference = '{self.match.reference}': must be one of {', '.join(names)}"
            )
        return self

    @model_validator(mode="after")
    def _names_and_seeds_are_the_studys(self) -> Self:
        parts = [("set", self.set), *((f"arm '{arm.name}'", arm.set) for arm in self.arms)]
        parts += [(f"base '{base.name}'", base.set) for base in self.bases]
        for where, texts in parts:
            for text in texts:
                owner = _OWNED.get(text.partition("=")[0].strip())
                if owner is not None:
                    raise ValueError(f"{where}: '{text}' cannot be set; it comes from {owner}")
        return self

    @property
    def models(self) -> tuple[Arm | Base, ...]:
        """What declares a model of its own: bases that are trained, and arms without a base."""
        trained = tuple(base for base in self.bases if base.recipe is not None)
        return trained + tuple(arm for arm in self.arms if not self.bases_of(arm))

    def bases_of(self, arm: Arm) -> tuple[str, ...]:
        """Return the names of the bases that an arm starts from."""
        return tuple(base.name for base in self.bases) if arm.bases is None else arm.bases

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a study file.

        Raises:
            InputError: naming the first wrong field.
        """
        try:
            return cls.of(read_toml(path))
        except InputError as error:
            raise InputError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None

    def overrides(self, part: Arm | Base, seed: int) -> tuple[str, ...]:
        """Return every override of one run, in the order in which they apply."""
        return (*self.declared(part), f'name="{part.name}"', f"seed={seed}")

    def declared(self, part: Arm | Base) -> tuple[str, ...]:
        """Return the overrides of an arm, the study's first, or of a base, whatever the seed."""
        return (*self.set, *part.set) if isinstance(part, Arm) else part.set

    def recipe_of(self, part: Arm | Base, seed: int, folder: Path) -> Recipe:
        """Return the complete recipe of one run; `folder` is where the study's file lies.

        Raises:
            InputError: naming the arm or the base and what is wrong with it.
        """
        try:
            return Recipe.load(self.path_of(part, folder), self.overrides(part, seed))
        except InputError as error:
            raise InputError(f"{kind_of(part)} '{part.name}': {error}") from None

    def path_of(self, part: Arm | Base, folder: Path) -> Path:
        """Return the path of the recipe of an arm or of a base that is trained."""
        return folder / (part.recipe or self.recipe)


def kind_of(part: Arm | Base) -> str:
    """Return what a part of a study is called in a sentence."""
    return "arm" if isinstance(part, Arm) else "base"

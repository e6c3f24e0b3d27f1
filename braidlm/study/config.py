"""The declaration of a study: arms that differ by overrides of one recipe, and seeds."""

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


class Arm(Config):
    """One thing to compare."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Short name; also the name of its folder."""
    label: str = ""
    """What reports call it. Default: the name."""
    set: tuple[str, ...] = ()
    """Overrides of the recipe, such as 'model.pattern="M-*-"'."""


class MatchRule(Config):
    """Arms that are resized until they agree with one of them, as `braid match` does it."""

    on: Literal["flops", "params", "cache"]
    """What has to agree: training FLOPs per token, parameters, or cache bytes of one sequence."""
    reference: str
    """Name of the arm that stays as it is."""
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
    require_matched: tuple[Quantity, ...] = ()
    """Quantities in which the arms must agree within 1 %; else nothing starts."""
    match: MatchRule | None = None
    """How arms are resized before anything starts; by default none is."""
    arms: tuple[Arm, ...] = Field(min_length=1)
    """The arms."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        named: dict[str, list[str]] = {
            "arms": [arm.name for arm in self.arms],
            "seeds": [str(seed) for seed in self.seeds],
        }
        for what, values in named.items():
            for value in values:
                if values.count(value) > 1:
                    raise ValueError(f"{what}: {value} is given twice; they must differ")
        return self

    @model_validator(mode="after")
    def _the_reference_is_an_arm(self) -> Self:
        names = [arm.name for arm in self.arms]
        if self.match is not None and self.match.reference not in names:
            raise ValueError(
                f"match.reference = '{self.match.reference}': must be one of {', '.join(names)}"
            )
        return self

    @model_validator(mode="after")
    def _names_and_seeds_are_the_studys(self) -> Self:
        for where, texts in (("set", self.set), *((f"arm '{a.name}'", a.set) for a in self.arms)):
            for text in texts:
                owner = _OWNED.get(text.partition("=")[0].strip())
                if owner is not None:
                    raise ValueError(f"{where}: '{text}' cannot be set; it comes from {owner}")
        return self

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

    def overrides(self, arm: Arm, seed: int) -> tuple[str, ...]:
        """Return every override of one run, in the order in which they apply."""
        return (*self.set, *arm.set, f'name="{arm.name}"', f"seed={seed}")

    def recipe_of(self, arm: Arm, seed: int, folder: Path) -> Recipe:
        """Return the complete recipe of one run; `folder` is where the study's file lies.

        Raises:
            InputError: naming the arm and what is wrong with it.
        """
        try:
            return Recipe.load(folder / self.recipe, self.overrides(arm, seed))
        except InputError as error:
            raise InputError(f"arm '{arm.name}': {error}") from None

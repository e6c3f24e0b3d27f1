"""The declaration of a study: arms that differ by overrides of one recipe, and seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from braidlm.arch import Recipe
from braidlm.arch.config import Config
from braidlm.arch.recipe import read_toml
from braidlm.errors import InputError


class Arm(Config):
    """One thing to compare."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Short name; also the name of its folder."""
    label: str = ""
    """What reports call it. Default: the name."""
    set: tuple[str, ...] = ()
    """Overrides of the recipe, such as 'model.pattern="M-*-"'."""


class StudyConfig(Config):
    """Arms x seeds over one recipe."""

    name: str
    """Name of the study."""
    description: str = ""
    """What is asked, in a sentence or two."""
    recipe: str
    """Path of the recipe, relative to the study's own file."""
    set: tuple[str, ...] = ()
    """Overrides that every arm has."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Seeds; every arm runs with each."""
    jobs: int = Field(default=0, ge=0)
    """Runs at a time, each on its share of the cores; 0: one per core."""
    context: int = Field(default=8192, gt=0)
    """Tokens at which caches are compared."""
    arms: tuple[Arm, ...] = Field(min_length=1)
    """The arms."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        for what, values in (("arms", [a.name for a in self.arms]), ("seeds", list(self.seeds))):
            for value in values:
                if values.count(value) > 1:
                    raise ValueError(f"{what}: {value!r} is given twice; they must differ")
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

"""Declaration of generated biographies: the world, how it is told, and both as training data."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.config import Config

N_FORMS = 32
"""Sentences that an attribute can be told in."""
MOST_PEOPLE = 3_000_000
"""People of a world at most: about half of the names that training may use."""

Naming = Literal["first", "always", "drawn"]
Order = Literal["fixed", "shuffled"]
WorkCity = Literal["independent", "headquarters"]


class Biographies(Config):
    """A world of people, and the forms that their biographies are told in.

    Source: Allen-Zhu and Li 2023 (arXiv 2309.14316), section 2: permutation (order), full names
        (naming).
    """

    n_people: int = Field(default=1000, gt=0, le=MOST_PEOPLE)
    """People who are told of; a smaller world is the beginning of a larger one."""
    n_forms: int = Field(default=N_FORMS, gt=0, le=N_FORMS)
    """Forms of each attribute that are used; 1: all people are told of in the same sentences."""
    naming: Naming = "first"
    """first: the full name stands in the first sentence, a pronoun after; always: the name in every
    sentence; drawn: after the first sentence either, evenly."""
    order: Order = "shuffled"
    """fixed: birth, studies, work; shuffled: each biography has an order of its own."""
    work_city: WorkCity = "independent"
    """independent: no fact follows from another; headquarters: a town of work is its employer's, as
    published."""


class Telling(Biographies):
    """The same, of one world, told a number of times."""

    world_seed: int = Field(default=0, ge=0)
    """Which world; it is not the run's seed, so that runs of many seeds learn the same facts."""
    n_biographies: int = Field(default=1, gt=0, le=N_FORMS)
    """Biographies of each person, of which no two tell a fact in the same form. Source: as above,
    multiplicity."""

    @model_validator(mode="after")
    def _forms_are_enough(self) -> Self:
        if self.n_biographies > self.n_forms:
            raise ValueError(
                f"n_biographies = {self.n_biographies}: must be at most n_forms = {self.n_forms}, "
                "for no two biographies of a person share a form"
            )
        return self


class BiographiesMethod(Biographies):
    """The same as texts with their paraphrases; the world is that of the command's seed."""

    n_paraphrases: int = Field(default=4, gt=0, lt=N_FORMS)
    """Paraphrases of each biography, none with a form of the biography or of each other."""

    @model_validator(mode="after")
    def _forms_are_enough(self) -> Self:
        if self.n_paraphrases >= self.n_forms:
            raise ValueError(
                f"n_paraphrases = {self.n_paraphrases}: must be below n_forms = {self.n_forms}, "
                "for no two texts about a person share a form"
            )
        return self

    def telling(self, seed: int) -> Telling:
        """Return the world of a seed, told as often as there are texts."""
        fields = self.model_dump(exclude={"n_paraphrases"})
        return Telling(**fields, world_seed=seed, n_biographies=self.n_paraphrases + 1)


class BiographiesSource(Telling):
    """Biographies of generated people as training data; each is a document."""

    kind: Literal["biographies"] = "biographies"
    """The source's kind."""
    name: str = "biographies"
    """Name in metrics and results."""
    weight: float = Field(default=1.0, gt=0)
    """Share of rows, relative to the other sources."""
    questions: float = Field(default=0.0, ge=0, lt=1)
    """Share of the people whose facts are asked and answered as well, a document each; tasks ask
    about the others. Source: Allen-Zhu and Li 2023, section 3 (mixed training: 0.5)."""

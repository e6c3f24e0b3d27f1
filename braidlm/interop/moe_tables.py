"""What families with experts have in common: maps of a mixture whose experts are stored singly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from braidlm.arch.mixers import MixerConfig, MoEConfig
from braidlm.interop.family import Rows, rows
from braidlm.interop.fields import Coded, Field, Flat, Foreign


def single_experts(
    others: Mapping[str, Rows],
    ups: tuple[str, ...],
    place: str = "experts",
    down: str = "down_proj",
) -> Callable[[MixerConfig], Mapping[str, Rows]]:
    """Return a map in which each expert has tensors of its own.

    Args:
        others: what is not of an expert: router, shared expert, latent projections.
        ups: names of an expert's input projections, in our order: gate, up.
        place: of the experts, inside the mixer.
        down: name of an expert's output projection.
    """

    def names(config: MixerConfig) -> Mapping[str, Rows]:
        assert isinstance(config, MoEConfig)
        each = [f"{place}.{i}" for i in range(config.n_experts)]
        return {
            **others,
            "experts_in": rows(*(f"{e}.{up}.weight" for e in each for up in ups)),
            "experts_out": rows(*(f"{e}.{down}.weight" for e in each)),
        }

    return names


def shared_expert(place: str, *ups: str) -> dict[str, Rows]:
    """Return the map of the expert of every token."""
    return {
        "shared.mlp.in_proj.weight": rows(*(f"{place}.{up}.weight" for up in ups)),
        "shared.out_proj.weight": rows(f"{place}.down_proj.weight"),
    }


def n_experts(theirs: str, without: int, letter: str = "E") -> Field:
    """The number of experts, or the number that stands for a model without any."""

    def read(config: Foreign) -> Flat:
        return {f"{letter}.n_experts": config.get(theirs)}

    def write(ours: Flat) -> dict[str, Any]:
        return {theirs: ours.get(f"{letter}.n_experts", without)}

    return Coded(read, write)

"""A folder that `braid paraphrase --method biographies` made: who is told of in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from braidlm.arch.biographies import BiographiesMethod, Telling
from braidlm.data.paraphrase.folder import read_manifest, read_pairs
from braidlm.errors import InputError


def telling_of(folder: Path) -> Telling:
    """Return how the people of a folder are told of.

    Raises:
        InputError: no such folder, or one that another method made.
    """
    manifest = read_manifest(folder)
    if (method := manifest.get("method")) != "biographies":
        raise InputError(f"{folder}: was made by the method '{method}', must be 'biographies'")
    settings = BiographiesMethod.of(manifest.get("settings"), f"{folder}: settings")
    return settings.telling(manifest["seed"])


def people_of(folder: Path, n_people: int) -> np.ndarray:
    """Return (n_people,) bool: about whom the folder holds a pair.

    Raises:
        InputError: as `read_pairs`, or a pair that is about nobody of the world.
    """
    is_told = np.zeros(n_people, dtype=bool)
    for pair in read_pairs(folder):
        number = pair.text_id.removeprefix("person/")
        if not number.isdecimal() or int(number) >= n_people:
            raise InputError(
                f"{folder}: id '{pair.id}' must name one of the {n_people} people, as person/0#0"
            )
        is_told[int(number)] = True
    return is_told

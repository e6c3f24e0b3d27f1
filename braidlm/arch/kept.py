"""The recipe that a run keeps, wherever the run has been moved."""

from __future__ import annotations

from pathlib import Path

from braidlm.arch.recipe import Recipe
from braidlm.arch.sources import HUB, RUN
from braidlm.files import read_json


def kept_recipe(file: Path, run: Path) -> Recipe:
    """Read the recipe that a run keeps, or a checkpoint of it.

    Args:
        file: JSON.
        run: the run's folder, as for `within`.

    Raises:
        InputError: for a file that cannot be read, or a field that cannot be.
    """
    return within(Recipe.from_dict(read_json(file), str(file)), run)


def within(recipe: Recipe, run: Path) -> Recipe:
    """Return the recipe with the whole path of a tokenizer that lies in its run.

    That is one named ``run:FOLDER``, or by a whole path that is there no more while the run has
    a folder of that name: so imports wrote it before.

    Args:
        recipe: as it is stored.
        run: the run's folder, wherever it is now.
    """
    name = recipe.data.tokenizer
    if name.startswith(RUN):
        folder = run / name.removeprefix(RUN)
    else:
        before = Path(name.removeprefix(HUB))
        folder = run / before.name
        is_gone = name.startswith(HUB) and before.is_absolute() and not before.is_dir()
        if not (is_gone and folder.is_dir()):
            return recipe
    data = recipe.data.model_copy(update={"tokenizer": f"{HUB}{folder.resolve()}"})
    return recipe.model_copy(update={"data": data})

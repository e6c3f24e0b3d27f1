"""Declarations as commands take them: a recipe beside its init, a model whoever wrote it down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from braidlm.arch.recipe import ModelFile, Recipe


def declaration(source: str, overrides: Sequence[str] = ()) -> ModelFile:
    """Return what `load_declaration` does, and also the model of another library's checkpoint.

    Args:
        source: as for `load_declaration`; or a folder of transformers, or a GGUF file.
        overrides: as for `Recipe.load`.

    Raises:
        InputError: for a file that cannot be read, a family that is not known, or a field that
            cannot be.
    """
    from braidlm.arch.recipe import PLAIN, ModelFile, load_declaration, override
    from braidlm.foreign import is_foreign

    is_pattern = set(source) <= PLAIN  # a folder of that name is told apart by its slash
    if is_pattern or not is_foreign(source):
        return load_declaration(source, overrides)
    from braidlm.interop import spec_of  # needs torch, which a declaration of ours does not

    return ModelFile.of(override({"model": spec_of(source).model_dump(mode="json")}, overrides))


def recipe_of(
    path: Path, overrides: Sequence[str] = (), init: str | None = None, out: Path | None = None
) -> Recipe:
    """Read a recipe file; what it lacks is read from its init, which takes torch.

    Args:
        path: the file.
        overrides: as for `Recipe.load`.
        init: instead of the recipe's own.
        out: the run directory; the init that it keeps is read, wherever its origin is now.

    Raises:
        InputError: as `Recipe.load` and `load_recipe`.
    """
    from braidlm.arch import Recipe
    from braidlm.arch.recipe import override, read_toml

    if init is None and "init" not in override(read_toml(path), overrides):
        return Recipe.load(path, overrides)
    from braidlm.train.start import load_recipe

    return load_recipe(path, overrides, init, out)

"""The declaration of a model, whoever wrote it down: for commands that read no weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from braidlm.arch.recipe import ModelFile


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

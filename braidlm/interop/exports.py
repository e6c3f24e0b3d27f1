"""Our models into foreign folders: from memory, or from a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from braidlm import checkpoint
from braidlm.arch import Recipe, Spec
from braidlm.arch.kept import kept_recipe
from braidlm.errors import InputError
from braidlm.files import read_json, write_json
from braidlm.interop import folder, weights
from braidlm.interop.choose import OWN, for_spec, of_config
from braidlm.interop.folder import Along
from braidlm.interop.names import entries
from braidlm.interop.own import own_config, own_entries
from braidlm.interop.tokenizer import BYTES, MADE_OF, TRAVELLING, files_of
from braidlm.manifest import CONFIG, WEIGHTS, verify
from braidlm.model import HybridLM
from braidlm.tensors import Held, Shards, Source

FORMATS = ("hf", OWN)
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
KEPT = frozenset({*IDS, MADE_OF, "max_position_embeddings", "initializer_range"})
"""Fields of an imported configuration that go out with the model again."""
OF_A_FILE = frozenset(
    {"architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "_name_or_path"}
)
"""Fields that speak of a file or of code, not of a model."""


def save(
    model: HybridLM,
    path: str | os.PathLike[str],
    *,
    format: str = "hf",
    family: str | None = None,
    max_shard_bytes: int = folder.MAX_SHARD_BYTES,
) -> str:
    """Write a model as a folder that transformers loads.

    Args:
        model: whose weights are written in their own dtypes.
        path: the folder: new, or empty.
        format: "hf": the classes of transformers; "braid-hf": any declaration, `braidlm.hf`.
        family: of "hf"; None: the first that expresses the model.
        max_shard_bytes: no file of weights is larger.

    Returns:
        The `model_type` that was written.

    Raises:
        InputError: no family, or not this one, expresses the model; names the sublayer.
    """
    source = Held(checkpoint.unique_tensors(model))
    return _write(Path(path), model.spec, source, format, family, {}, (), max_shard_bytes)


def export_run(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: str = "hf",
    family: str | None = None,
    max_shard_bytes: int = folder.MAX_SHARD_BYTES,
) -> dict[str, Any]:
    """Write a run's newest checkpoint, or a checkpoint folder, as a folder of transformers.

    Returns:
        `family`, `format`, `step`, `checkpoint`, and `files`, those that travel along.

    Raises:
        InputError: as for `save`, or a checkpoint that is missing, cut or corrupt.
    """
    place = checkpoint.resolve(run)
    manifest = verify(place)
    recipe = kept_recipe(place / CONFIG, place.parent.parent)
    along = _along(place, recipe)
    source = Shards([place / WEIGHTS])
    extra = _extra(along, recipe)
    written = _write(Path(out), recipe.spec, source, format, family, extra, along, max_shard_bytes)
    return {
        "family": written,
        "format": format,
        "step": manifest["step"],
        "checkpoint": str(place),
        "files": [file.name for file in along if file.name != folder.CONFIG],
    }


def _write(
    path: Path,
    spec: Spec,
    source: Source,
    format: str,
    family: str | None,
    extra: Mapping[str, Any],
    along: Sequence[Along],
    max_shard_bytes: int,
) -> str:
    if format not in FORMATS:
        raise InputError(f"format = '{format}': allowed: {', '.join(FORMATS)}")
    if format == OWN:
        if family is not None:
            raise InputError(f"family = '{family}': belongs to format = 'hf' alone")
        config, plan = own_config(spec), own_entries(spec)
    else:
        chosen, config = for_spec(spec, family)
        plan = entries(chosen, spec)
    about, named = weights.theirs_about(source, plan), weights.to_theirs(source, plan)
    dtype = source.about["embedding.weight"].dtype
    if extra.get("model_type", config["model_type"]) != config["model_type"]:
        extra = {key: extra[key] for key in KEPT & extra.keys()}
    head = {"dtype": str(dtype).removeprefix("torch."), **dict.fromkeys(IDS)}
    config = {**head, **extra, **config}
    with folder.Writing(path) as temporary:
        write_json(temporary / folder.CONFIG, dict(sorted(config.items())))
        folder.write_weights(temporary, about, named, max_shard_bytes)
        folder.copy_along([file for file in along if file.name != folder.CONFIG], temporary)
    return config["model_type"]


def _along(place: Path, recipe: Recipe) -> Sequence[Along]:
    """Return what travels along: what came with an import, or the files of the tokenizer."""
    imported = place.parent.parent / TRAVELLING
    if (imported / folder.CONFIG).is_file():
        return [imported / folder.CONFIG, *folder.travelling(imported)]
    name = recipe.data.tokenizer
    if name.startswith("hf:") and Path(name[3:]).is_dir():
        return folder.travelling(Path(name[3:]))
    is_there = Path(name).is_file()
    return files_of(name) if is_there else ()


def _extra(along: Sequence[Along], recipe: Recipe) -> dict[str, Any]:
    """Return fields that decide nothing of the model: ids of special tokens, lengths."""
    found = (f for f in along if f.name == folder.CONFIG and isinstance(f, Path))
    config = next(found, None)
    made_of = {MADE_OF: BYTES} if recipe.data.tokenizer == BYTES else {}
    if config is None:
        return made_of | {"max_position_embeddings": recipe.data.seq_len} | special_ids(recipe)
    found = read_json(config)
    is_same = _declares(found, recipe.spec)
    kept = {k: v for k, v in found.items() if k in KEPT or (is_same and k not in OF_A_FILE)}
    return made_of | kept


def _declares(config: Mapping[str, Any], spec: Spec) -> bool:
    """Whether an imported configuration is one of this model: it may then go out as it came in."""
    try:
        return of_config(config, folder.CONFIG).spec(config) == spec
    except InputError:
        return False


def special_ids(recipe: Recipe) -> dict[str, int]:
    """Return the ids that open, close and pad a document, where the tokenizer can be had."""
    from braidlm.data.tokenizer import load_tokenizer

    try:
        tokenizer = load_tokenizer(recipe.data.tokenizer)
    except InputError:
        return {}
    ids = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    return {k: i for k, i in zip(IDS, ids, strict=True) if i < recipe.spec.vocab_size}

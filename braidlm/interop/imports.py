"""Foreign checkpoints into ours: a model in memory, or a run directory."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from braidlm import checkpoint, tensors
from braidlm.arch import Recipe, Spec
from braidlm.arch.sources import HUB, RUN
from braidlm.checkpoint import cast_weights
from braidlm.foreign import SUFFIX, is_gguf
from braidlm.gguf import read_header
from braidlm.gguf.weights import Quantised
from braidlm.interop import folder, gguf, weights
from braidlm.interop.choose import of_config
from braidlm.interop.families.gguf_llama import GGUF_LLAMA
from braidlm.interop.families.mamba_ssm import flattened, is_mamba_ssm, of_flattened
from braidlm.interop.folder import Along, Made
from braidlm.interop.names import Entry, Undrawn, entries
from braidlm.interop.own import MODEL_TYPE, PREFIX, own_entries, own_spec
from braidlm.interop.tokenizer import NONE, TRAVELLING, Chosen, choose, of_place
from braidlm.model import HybridLM
from braidlm.runs import Run, capture_env
from braidlm.tensors import Source


class Loaded(NamedTuple):
    """What a foreign folder holds."""

    model: HybridLM
    """In evaluation mode."""
    tokenizer: str | None
    """What names its tokenizer in a recipe and for `load_tokenizer`; None: the folder has none."""
    family: str
    """Its `model_type`."""
    skipped: tuple[str, ...]
    """Tensors of it that are no part of the model."""


class _Described(NamedTuple):
    """What a configuration tells."""

    family: str
    spec: Spec
    plan: Callable[[Spec, HybridLM | None], list[Entry]]
    skipped: tuple[str, ...]
    """Patterns of tensors that are no part of the model."""
    respelled: tuple[tuple[str, str], ...] = ()
    """Patterns of other names of tensors, and what they are called here."""
    tied: tuple[str, str] | None = None
    """Tensors of the head and of the embedding, which are one."""
    stored: Source | None = None
    """Its tensors, where what tells of the model lies among them; None: they lie in the folder."""


class _Found(NamedTuple):
    """What lies in the folder beside it."""

    entries: list[Entry]
    source: Source
    skipped: list[str]


def load(
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype = torch.float32,
    weights_only_pickle: bool = False,
) -> Loaded:
    """Read a foreign checkpoint into a model, holding no tensor twice but the one being copied.

    Args:
        path: folder with `config.json` and weights, or a GGUF file.
        dtype: of the model's weights; A_log, D and dt_bias stay in fp32 beside narrower ones.
        weights_only_pickle: whether pickled tensors may be read.

    Raises:
        InputError: an unknown family, a field or a tensor that no field of ours expresses, or files
            that are missing or damaged; one sentence that names it.
    """
    described = _described(Path(path))
    with Undrawn():
        model = HybridLM(described.spec)
    found = _found(Path(path), described, model, weights_only_pickle)
    cast_weights(model, dtype)
    weights.fill(model, found.source, found.entries)
    return Loaded(model.eval(), of_place(Path(path)), described.family, tuple(found.skipped))


def spec_of(path: str | os.PathLike[str]) -> Spec:
    """Return the model that a foreign folder or GGUF file tells of; no weight is read.

    Raises:
        InputError: an unknown family, or a field that no field of ours expresses.
    """
    return _described(Path(path)).spec


def import_run(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    weights_only_pickle: bool = False,
    tokenizer: str | None = None,
) -> dict[str, Any]:
    """Make a run directory of a foreign checkpoint, one tensor at a time.

    Args:
        path: folder with `config.json` and weights, or a GGUF file.
        out: the run directory: new, or empty.
        dtype: of the stored weights; None: as they are.
        weights_only_pickle: whether pickled tensors may be read.
        tokenizer: taken instead of the folder's: as a recipe names it, or "none".

    Returns:
        `family`, `pattern`, `n_params`, `dtypes`, `skipped`, `tokenizer`, `checkpoint`.

    Raises:
        InputError: as for `load`, or `out` holds something; nothing is left behind.
    """
    Run.check_free(out)
    described = _described(Path(path))
    config = read_config(path)
    chosen = choose(Path(path), config, described.spec.vocab_size, tokenizer)
    found = _found(Path(path), described, None, weights_only_pickle)
    about = weights.ours_about(found.source, found.entries)
    about = {name: a._replace(dtype=_stored(name, a.dtype, dtype)) for name, a in about.items()}
    with folder.Writing(out) as temporary:
        run = Run.create(temporary, {})
        (run.path / TRAVELLING).mkdir()
        folder.copy_along([*chosen.files, _config_file(path)], run.path / TRAVELLING)
        recipe = recipe_of(described.spec, _name(Path(path)), chosen.name).to_dict()
        run.write_config(recipe)
        run.write_env(capture_env())
        run.set_status("done", 0, 0)

        def write(file: Path) -> None:
            named = weights.to_ours(found.source, found.entries)
            tensors.write(file, about, ((n, t.to(about[n].dtype)) for n, t in named))

        step = checkpoint.checkpoint_path(run.path, 0)
        checkpoint.save_with(step, write, recipe=recipe)
    return {
        "family": described.family,
        "pattern": described.spec.pattern,
        "n_params": sum(torch.Size(a.shape).numel() for a in about.values()),
        "dtypes": sorted({str(a.dtype).removeprefix("torch.") for a in about.values()}),
        "skipped": found.skipped,
        "tokenizer": _told(chosen, Path(out)),
        "checkpoint": str(checkpoint.checkpoint_path(out, 0)),
    }


def recipe_of(spec: Spec, name: str, tokenizer: str) -> Recipe:
    """Return a recipe around an imported model: its tokenizer, and text that is everywhere."""
    data = {"tokenizer": tokenizer, "sources": [{"kind": "text", "path": "python-docs"}]}
    task = {"kind": "lm", "name": "held-out", "source": "text"}
    return Recipe.from_dict(
        {"name": name, "model": spec.model_dump(), "data": data, "tasks": [task]}
    )


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the configuration of a folder, or what a GGUF file's would be in that form.

    Raises:
        InputError: as `folder.read_config`, or as for `load`.
    """
    if not is_gguf(path):
        return folder.read_config(path)
    return gguf.configuration(read_header(path), spec_of(path))


def _config_file(path: str | os.PathLike[str]) -> Along:
    if not is_gguf(path):
        return Path(path) / folder.CONFIG
    return Made(folder.CONFIG, json.dumps(read_config(path), indent=2).encode())


def _name(path: Path) -> str:
    """Return what a run is called after."""
    whole = path.resolve().name
    return whole.removesuffix(SUFFIX) if is_gguf(path) else whole


def _described(path: Path) -> _Described:
    if is_gguf(path):
        return _of_gguf(path)
    config = folder.read_config(path)
    where = str(path / folder.CONFIG)
    if config.get("model_type") == MODEL_TYPE:
        head = re.escape(f"{PREFIX}lm_head.weight")
        return _Described(MODEL_TYPE, own_spec(config, where), own_entries, (head,))
    if is_mamba_ssm(config):
        config = flattened(config, where)
        family = of_flattened(config, where)
    else:
        family = of_config(config, where)
    head = re.escape(family.ends.head)  # stored beside the embedding that it is
    spec = family.spec(config, where)
    plan, skipped = partial(entries, family), (*family.skipped, head)
    tied = (family.ends.head, family.ends.embedding) if spec.tie_embeddings else None
    return _Described(family.model_type, spec, plan, skipped, family.respelled, tied)


def _of_gguf(path: Path) -> _Described:
    header = read_header(path)
    source = Quantised(header)
    spec = GGUF_LLAMA.spec(gguf.config(header, source), str(path))
    plan = partial(entries, GGUF_LLAMA)
    return _Described(GGUF_LLAMA.model_type, spec, plan, GGUF_LLAMA.skipped, stored=source)


def _found(
    path: Path, described: _Described, model: HybridLM | None, weights_only_pickle: bool
) -> _Found:
    stored = described.stored
    if stored is None:
        stored = folder.source(path, weights_only_pickle=weights_only_pickle)
    respelled = weights.respelled(stored, described.respelled, str(path))
    plan = described.plan(described.spec, model)
    source = weights.by_first_use(respelled, plan)
    skipped = weights.check(source, plan, described.skipped, str(path))
    if described.tied is not None:
        weights.check_tied(source, *described.tied, str(path))
    return _Found(plan, source, skipped)


def _stored(name: str, found: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    """Keep what a recurrence is sensitive to as it is when other weights are made narrower."""
    is_kept = name.rpartition(".")[2] in checkpoint.KEPT_PRECISE
    return found if wanted is None or (is_kept and wanted.itemsize < found.itemsize) else wanted


def _told(chosen: Chosen, out: Path) -> str:
    """Return the tokenizer as a command takes it."""
    if not chosen.is_there:
        return NONE
    is_inside = chosen.name.startswith(RUN)
    return f"{HUB}{out / TRAVELLING}" if is_inside else chosen.name

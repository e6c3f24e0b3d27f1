"""Where a training starts: weights of a run, of a checkpoint of one, or of a folder of others.

A run that starts so keeps a run of its initial weights in its folder `init`. It can go on, and be
compared with what it was, when the place that they came from is gone:

    init/config.json                   the recipe, so that the same tasks are asked
    init/checkpoints/step-00000000/    the weights, and no state of an optimizer
    init/origin.json                   what they were: path, name, checkpoint, step, SHA-256, and
                                       how their own training ended
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from braidlm import checkpoint
from braidlm.arch import Recipe, Spec
from braidlm.arch.config import differences
from braidlm.arch.init_changes import changed, told
from braidlm.arch.kept import kept_recipe
from braidlm.arch.recipe import override, read_toml
from braidlm.arch.sources import HUB
from braidlm.data.replay import Record
from braidlm.data.tokenizer import load_tokenizer
from braidlm.errors import InputError
from braidlm.files import write_json
from braidlm.foreign import is_foreign, is_gguf
from braidlm.interop import load, spec_of
from braidlm.interop.imports import read_config
from braidlm.interop.tokenizer import TRAVELLING, of_place, said_by
from braidlm.manifest import CONFIG, MANIFEST, WEIGHTS, is_complete, verify
from braidlm.model import HybridLM
from braidlm.runs import INIT, ORIGIN, Run, capture_env, read_origin
from braidlm.train.ending import (
    ENDED,
    TRAINED,
    ending,
    first_rate,
    optimizer_of,
    record_of,
    trained_on,
)


@dataclass(frozen=True)
class Start:
    """Weights that a training begins with, found and whole."""

    init: str
    """As it was declared."""
    folder: Path
    """Of a checkpoint, or in the form of transformers; or a GGUF file."""
    spec: Spec
    """The model that they are of."""
    tokenizer: str | None
    """What `load_tokenizer` takes; None: they came without one."""
    origin: dict[str, Any]
    """What `origin.json` will say."""

    @property
    def is_ours(self) -> bool:
        """Whether the folder is a checkpoint of ours."""
        return (self.folder / MANIFEST).is_file()

    def check(self, recipe: Recipe) -> None:
        """Refuse a recipe that these weights do not fit.

        Raises:
            InputError: naming the first field of the model that differs, the tokenizer, or what
                the training should take over and the init does not have.
        """
        self.record(recipe)
        first_rate(recipe.train, self.origin, self.init)
        optimizer_of(self.folder, recipe.train, self.origin, self.init)
        wanted = changed(self.spec, recipe.init_changes)
        now = self.settled(recipe).spec
        for field, theirs, ours in differences(_plain(wanted), _plain(now), "model"):
            raise InputError(
                f"{field} = {ours!r}: must be {theirs!r} as in init = '{self.init}' (a recipe "
                "without [model] takes that of its init; what leaves its weights as they are may "
                "change by [init_changes])"
            )
        self.check_tokenizer(recipe.data.tokenizer)

    def check_tokenizer(self, name: str, role: str = "init") -> None:
        """Refuse ids that are other text to these weights; `role` is what messages call them.

        Raises:
            InputError: naming both tokenizers.
        """
        if self.tokenizer in (None, name):
            return
        if load_tokenizer(self.tokenizer).fingerprint != load_tokenizer(name).fingerprint:
            raise InputError(
                f"data.tokenizer = '{name}': must be '{self.tokenizer}', with which {role} = "
                f"'{self.init}' was trained: to its weights these ids are other text"
            )

    def settled(self, recipe: Recipe) -> Recipe:
        """Return the recipe with the model that is trained.

        Its `[model]` is that of the init, with or without the changes that it declares.

        Raises:
            InputError: a change that cannot be made.
        """
        if _plain(recipe.spec) != _plain(self.spec):
            return recipe
        spec = changed(self.spec, recipe.init_changes)
        return recipe.model_copy(update={"spec": spec})

    def record(self, recipe: Recipe) -> Record | None:
        """Return the rows that the recipe replays; None if it does not."""
        return record_of(recipe, self.origin, self.init)

    def first_lr(self, recipe: Recipe) -> float:
        """Return the learning rate from which the recipe's warm-up begins."""
        return first_rate(recipe.train, self.origin, self.init)

    def optimizer(self, recipe: Recipe) -> dict[str, Any]:
        """Return the optimizer's state that the recipe begins with; {}: a new one.

        Raises:
            InputError: it cannot be read.
        """
        if not optimizer_of(self.folder, recipe.train, self.origin, self.init):
            return {}
        return checkpoint.load_train_state(self.folder)["optimizer"]

    def model(self, spec: Spec | None = None) -> HybridLM:
        """Return a model with these weights in fp32, ready to be trained.

        Args:
            spec: of the model, which may differ in what needs no weights; default: that of the
                init.

        Raises:
            InputError: damaged files, or tensors that are missing or of another shape.
        """
        if self.is_ours:
            model = checkpoint.load_model(self.folder, dtype=torch.float32)[0]
        else:
            model = load(self.folder, dtype=torch.float32).model
        if spec is not None and _plain(spec) != _plain(self.spec):
            weights = model.state_dict()
            model = HybridLM(spec)
            model.load_state_dict(weights)  # strict: every name and shape is the same
        return model.train()

    def keep(self, run: Run, recipe: Recipe, model: torch.nn.Module) -> None:
        """Write the run of the initial weights into `run`, unless it is there; the weights last.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        if is_kept(run.path):
            return
        place = run.path / INIT
        # As they were trained, before anything about the model has changed.
        before = {"init": None, "init_changes": None, "spec": self.spec}
        about = recipe.model_copy(update={**before, "name": f"{recipe.name} before"}).to_dict()
        kept = Run.create(place, about, resume=True)
        kept.write_env(capture_env())
        kept.set_status("done", 0, 0)
        changes = told(self.spec, recipe.spec)
        write_json(place / ORIGIN, {**self.origin, **({"changes": changes} if changes else {})})
        self._take_along(recipe, run.path, place)
        optimizer = self.optimizer(recipe)
        checkpoint.save(
            checkpoint.checkpoint_path(place, 0),
            model,
            recipe=about,
            train_state={"optimizer": optimizer} if optimizer else None,
        )

    def _take_along(self, recipe: Recipe, *places: Path) -> None:
        """Copy a tokenizer that lies in a run, so that it is found when that run is gone."""
        folder = Path(recipe.data.tokenizer.removeprefix(HUB))
        if folder.is_dir() and folder.name == TRAVELLING:
            for place in places:
                shutil.copytree(folder, place / TRAVELLING, dirs_exist_ok=True)


def load_recipe(
    path: str | Path,
    overrides: Sequence[str] = (),
    init: str | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Recipe:
    """Read a recipe file; the model and the tokenizer that it leaves out are those of its init.

    Args:
        path: the file.
        overrides: as for `Recipe.load`.
        init: instead of the recipe's own.
        out: the run directory; the init that it keeps is read, wherever its origin is now.

    Raises:
        InputError: as `Recipe.load` and `open_start`.
    """
    data = override(read_toml(path), overrides)
    if init is not None:
        data = {**data, "init": init}
    tables = data.get("data", {})
    is_sound = isinstance(data.get("init"), str) and isinstance(tables, dict)
    if is_sound and ("model" not in data or "tokenizer" not in tables):
        start = _open(data["init"], out)
        tokenizer = {} if start.tokenizer is None else {"tokenizer": start.tokenizer}
        data = {"model": _plain(start.spec), **data, "data": {**tokenizer, **tables}}
    return Recipe.from_dict(data, str(path))


def start_of(recipe: Recipe, out: str | os.PathLike[str] | None) -> Start | None:
    """Return what a recipe's training starts from, checked; None: from weights that are drawn.

    Raises:
        InputError: as `open_start` and `Start.check`.
    """
    if recipe.init is None:
        return None
    start = _open(recipe.init, out)
    start.check(recipe)
    return start


def open_start(init: str) -> Start:
    """Find the weights that `init` names, and make sure that they are whole.

    Raises:
        InputError: there is no such folder, it holds no weights, or its files are damaged.
    """
    try:
        return _foreign(init) if is_foreign(Path(init)) else _ours(init)
    except InputError as error:
        raise InputError(f"init = '{init}': {error}") from None


def is_kept(out: str | os.PathLike[str]) -> bool:
    """Whether a run has its initial weights in itself."""
    return is_complete(checkpoint.checkpoint_path(Path(out) / INIT, 0))


def _open(init: str, out: str | os.PathLike[str] | None) -> Start:
    """Find the weights in the run that keeps them, or else where they came from."""
    if out is not None and is_kept(out):
        kept = Path(out) / INIT
        return replace(open_start(str(kept)), origin=read_origin(kept))
    start = open_start(init)
    origin = Path(out or "") / INIT / ORIGIN
    is_begun = out is not None and origin.is_file()
    if is_begun and read_origin(origin.parent).get("weights") != start.origin["weights"]:
        raise InputError(f"init = '{init}': its weights are not those that {out} began with")
    return start


def _ours(init: str) -> Start:
    folder = checkpoint.resolve(init)
    manifest = verify(folder)
    run = folder.parent.parent
    recipe = kept_recipe(folder / CONFIG, run)
    # Weights that a run began with were trained elsewhere, not as this recipe says.
    elsewhere, step = read_origin(run), manifest["step"]
    ended = elsewhere.get(ENDED) or ending(recipe, run, step)
    rows = elsewhere.get(TRAINED) or trained_on(recipe, run, folder, step)
    origin = {
        "path": init,
        "form": "run",
        "name": recipe.name,
        "checkpoint": folder.name,
        "step": manifest["step"],
        "code_version": manifest["code_version"],
        ENDED: ended,
        TRAINED: rows,
        "weights": {WEIGHTS: manifest["files"][WEIGHTS]["sha256"]},
    }
    return Start(init, folder, recipe.spec, _tokenizer_of(recipe), origin)


def _foreign(init: str) -> Start:
    folder = Path(init)
    is_file = is_gguf(folder)
    inside = [folder] if is_file else folder.iterdir()
    files = sorted(f for f in inside if is_file or f.suffix in (".safetensors", ".bin"))
    origin = {
        "path": init,
        "form": "gguf" if is_file else "transformers",
        "name": folder.resolve().name,
        "weights": {file.name: _sha256(file) for file in files},
    }
    tokenizer = said_by(folder, read_config(folder))
    return Start(init, folder, spec_of(folder), tokenizer, origin)


def _tokenizer_of(recipe: Recipe) -> str | None:
    """Return a run's tokenizer; None: it was imported without one."""
    name = recipe.data.tokenizer
    place = Path(name.removeprefix(HUB))
    is_absent = name.startswith(HUB) and place.is_dir() and of_place(place) is None
    return None if is_absent else name


def _plain(spec: Spec) -> dict[str, Any]:
    return spec.model_dump(mode="json", exclude_none=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

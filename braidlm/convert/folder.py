"""What lies in the folder of a conversion, and which of it is finished.

DIR/                       an ordinary run: the student as the last stage left it
DIR/convert.json           the declaration, where the teacher came from, the attentions kept
DIR/init/                  the teacher, as a run of its own
DIR/stages/0-copy/         the student with copied weights, as a run
DIR/stages/1-mixers/ ...   each stage, as a run: metrics, checkpoints, results
DIR/hf/                    the teacher's tokenizer, where it was a file; each run has a copy
DIR/results/               the student's, the table of stages, the ranking of layers
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from torch import nn

from braidlm import checkpoint
from braidlm.arch import Recipe
from braidlm.arch.config import differences
from braidlm.arch.convert import Conversion
from braidlm.arch.sources import HUB
from braidlm.errors import InputError
from braidlm.files import read_json, write_json
from braidlm.foreign import is_gguf
from braidlm.interop.folder import copy_along
from braidlm.interop.tokenizer import TRAVELLING, files_of
from braidlm.manifest import is_complete
from braidlm.runs import Run, capture_env
from braidlm.train.resume import FREE_FIELDS
from braidlm.train.start import INIT, ORIGIN, Start

DECLARED = "convert.json"
SCHEMA_VERSION = 1


class Folder:
    """The folder of one conversion."""

    def __init__(self, path: str | Path, conversion: Conversion) -> None:
        self.path, self.conversion = Path(path), conversion

    @property
    def stages(self) -> list[Path]:
        """The folder of every stage, that of the copied weights first."""
        names = ["copy", *(stage.label for stage in self.conversion.convert.stages)]
        return [self.path / "stages" / f"{n}-{name}" for n, name in enumerate(names)]

    @property
    def teacher(self) -> Path:
        """The teacher's run."""
        return self.path / INIT

    def check(self, *, resume: bool) -> None:
        """Refuse a folder that holds something else, or a conversion that was declared otherwise.

        Raises:
            InputError: naming the folder, or the first field that differs.
        """
        declared = self.path / DECLARED
        if not declared.is_file():
            Run.check_free(self.path)
            return
        if not resume:
            raise InputError(
                f"{self.path} holds a conversion: go on with --resume, or give another"
            )
        before = Conversion.from_dict(read_json(declared)["declared"], str(declared))
        now = _plain(self.conversion)
        for path, old, new in differences(_plain(before), now, ""):
            if (name := path.removeprefix(".")) not in FREE_FIELDS and name != "data.tokenizer":
                raise InputError(
                    f"{self.path} cannot be resumed so: {name} = {new!r}, but the conversion was "
                    f"begun with {old!r}"
                )

    def declare(self, start: Start) -> None:
        """Write what was asked for, before anything else."""
        file = self.path / DECLARED
        if not file.is_file():
            row = {"schema_version": SCHEMA_VERSION, "declared": _plain(self.conversion)}
            write_json(file, row | {"teacher": start.origin, "kept": None})

    @property
    def kept(self) -> list[int] | None:
        """The attentions that were chosen to stay; None: they are not chosen yet."""
        return read_json(self.path / DECLARED)["kept"]

    def keep(self, layers: list[int]) -> None:
        """Remember which attentions were chosen."""
        write_json(self.path / DECLARED, read_json(self.path / DECLARED) | {"kept": layers})

    def carry_tokenizer(self) -> None:
        """Copy a tokenizer that lies in a folder or a GGUF file into this folder to stay."""
        name = self.conversion.data.tokenizer
        place = Path(name.removeprefix(HUB))
        if is_gguf(name) or (name.startswith(HUB) and place.is_dir()):
            own = self.path / TRAVELLING
            own.mkdir(exist_ok=True)
            if place.resolve() != own.resolve():
                copy_along(files_of(name), own)
            data = self.conversion.data.model_copy(update={"tokenizer": f"{HUB}{own.resolve()}"})
            self.conversion = self.conversion.model_copy(update={"data": data})

    def new_run(self, path: Path, recipe: Recipe) -> Run:
        """Make a run in this folder, with the tokenizer in it."""
        run = Run.create(path, recipe.to_dict(), resume=True)
        self.give_tokenizer(path)
        run.write_env(capture_env())
        return run

    def open(self, recipe: Recipe) -> Run:
        """Make the folder itself a run that is being made."""
        run = Run(self.path)
        run.checkpoints_dir.mkdir(exist_ok=True)
        run.results_dir.mkdir(exist_ok=True)
        run.write_config(recipe.to_dict())
        run.write_env(capture_env())
        run.set_status("running", 0, recipe.train.steps)
        return run

    def give_tokenizer(self, path: Path) -> None:
        """Copy the tokenizer that lies in this folder into one of its runs."""
        own = self.path / TRAVELLING
        if own.is_dir():
            shutil.copytree(own, path / TRAVELLING, dirs_exist_ok=True)

    def write_untrained(
        self, path: Path, recipe: Recipe, model: nn.Module, origin: dict[str, Any] | None = None
    ) -> None:
        """Write a run of weights that no training has made; the weights last."""
        run = self.new_run(path, recipe)
        if origin is not None:
            write_json(path / ORIGIN, origin)
        run.set_status("done", 0, 0)
        checkpoint.save(checkpoint.checkpoint_path(path, 0), model, recipe=recipe.to_dict())


def is_finished(stage: Path) -> bool:
    """Whether a stage has reached its last step."""
    if not (stage / "config.json").is_file() or not checkpoint.checkpoints(stage):
        return False
    is_done = Run(stage).status().get("state") == "done"
    return is_done and is_complete(checkpoint.latest(stage))


def _plain(conversion: Conversion) -> dict[str, Any]:
    return conversion.model_dump(mode="json", exclude_none=True)

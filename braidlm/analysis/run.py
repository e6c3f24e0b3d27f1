"""From a run directory to ``results/analysis-<instrument>.json``."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from braidlm.analysis.inputs import Inputs
from braidlm.analysis.instrument import Finding, Instrument, Subject, Tell
from braidlm.analysis.layers import parse_layers
from braidlm.analysis.sources import Sources
from braidlm.analysis.table import choose_instruments
from braidlm.arch import Recipe, Sublayer
from braidlm.device import choose_device
from braidlm.errors import InputError
from braidlm.files import read_json
from braidlm.generate.mode import choose_dtype, inference
from braidlm.items import read_items
from braidlm.manifest import WEIGHTS, read_manifest
from braidlm.model import HybridLM
from braidlm.ops import dispatch
from braidlm.provenance import code_version
from braidlm.runs import Run
from braidlm.tasks.asked import UnusableError
from braidlm.tasks.choose import with_tasks
from braidlm.tasks.opening import choose_checkpoint, load_asked, open_run, threads

KIND = "analysis"
Progress = Callable[[str, int, int], None]
"""Called with ("analysis-<instrument>", documents done, documents in all)."""


def analyze(
    run_dir: str | os.PathLike[str],
    instruments: Sequence[str] | None = None,
    *,
    text: str | os.PathLike[str] | None = None,
    task: str | None = None,
    tasks_file: str | os.PathLike[str] | None = None,
    context: int | None = None,
    n_documents: int | None = None,
    layers: str | None = None,
    checkpoint: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
    kept: Callable[[str], None] | None = None,
    failed: Callable[[str, InputError], None] | None = None,
) -> list[dict[str, Any]]:
    """Look at a run's model with some instruments, and write a result file for each.

    An instrument whose result is there already, from the same inputs, layers, weights, device,
    dtype and code version, is not used again.

    Args:
        run_dir: the run directory, a trained or an imported one.
        instruments: names, see `table.INSTRUMENTS`; None: all.
        text: a text file that is read instead of held-out documents.
        task: name of a recall task whose prompts are read instead.
        tasks_file: a TOML file of more ``[[tasks]]``, see `tasks.with_tasks`.
        context: tokens of a document; None: as trained, or as the task declares.
        n_documents: at most; None: see `inputs.n_documents_of`.
        layers: sublayers that are looked at, such as "0,2-4"; None: all.
        checkpoint: name of a folder in the run's ``checkpoints``, or None for the newest.
        device: "auto", "cpu" or "cuda"; None: the recipe's.
        dtype: "fp32" or "bf16"; None: fp32 on a CPU, as trained on a GPU.
        force: measure again whatever is there.
        progress: told how far each instrument is.
        kept: told "analysis-<name>" of every result that is not measured again.
        failed: told "analysis-<name>" and why of every instrument that cannot use the documents;
            None: the first of these is raised when all others are used.

    Returns:
        The result files' contents, without instruments that failed. Where an instrument does not
        apply, `why_not` says why and `value` is None.

    Raises:
        InputError: no run, instrument, layer, task or text of this kind, a text that is too short,
            documents that an instrument cannot use, a damaged checkpoint, or a result that another
            process is measuring now.
        OSError: a result cannot be written.
    """
    chosen = choose_instruments(instruments)
    run = open_run(run_dir)
    recipe, _ = with_tasks(run, tasks_file)
    place = choose_device(device or recipe.train.device)
    asked = _Asked(
        run,
        recipe,
        choose_checkpoint(run, checkpoint),
        place,
        choose_dtype(dtype, place, recipe.train.precision),
        parse_layers(layers, recipe.spec.n_layers),
    )
    sources = Sources(run, recipe, text, task, context, n_documents)
    found: list[dict[str, Any]] = []
    errors: list[InputError] = []
    for instrument in chosen:
        inputs = sources.of(instrument)
        name = ".".join(filter(None, (instrument.name, sources.label(inputs))))
        try:
            with run.measuring(KIND, name):
                result = None if force else asked.earlier(name, instrument, inputs)
                if result is not None and kept is not None:
                    kept(f"{KIND}-{name}")
                found.append(result or asked.measure(name, instrument, inputs, progress))
        except UnusableError:
            raise
        except InputError as error:
            errors.append(error)
            if failed is not None:
                failed(f"{KIND}-{name}", error)
    if errors and failed is None:
        raise errors[0]
    return found


@dataclass(frozen=True)
class _Asked:
    """A checkpoint, and how it is looked at."""

    run: Run
    recipe: Recipe
    folder: Path
    device: torch.device
    dtype: str
    layers: Collection[int] | None

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return read_manifest(self.folder)

    @cached_property
    def model(self) -> HybridLM:
        """Loaded when it is needed first: a finished analysis needs none.

        Raises:
            UnusableError: a damaged checkpoint, or one of another model than the run's.
        """
        try:
            return load_asked(self.run, self.recipe, self.folder, self.device)
        except InputError as error:
            raise UnusableError(str(error)) from None

    @property
    def sublayers(self) -> list[Sublayer]:
        """Those that are looked at."""
        chosen = self.layers
        return [s for s in self.recipe.spec.sublayers if chosen is None or s.index in chosen]

    def key(self, instrument: Instrument, inputs: Inputs | str) -> dict[str, Any]:
        """All that decides a result; its parts are fields of the result file."""
        read = {"why_not": inputs} if isinstance(inputs, str) else inputs.about
        layers = None if self.layers is None else sorted(self.layers)
        return {
            "analysis": {"instrument": instrument.name, "inputs": read, "layers": layers},
            "weights": self.manifest["files"][WEIGHTS]["sha256"],
            "checkpoint": self.folder.name,
            "device": self.device.type,
            "dtype": self.dtype,
            "code_version": code_version(),
        }

    def earlier(
        self, name: str, instrument: Instrument, inputs: Inputs | str
    ) -> dict[str, Any] | None:
        """Return the result that is there already, if it is whole and would come out the same."""
        with contextlib.suppress(InputError, AttributeError):
            result = read_json(self.run.results_dir / f"{KIND}-{name}.json")
            key = self.key(instrument, inputs)
            if {field: result.get(field) for field in key} == key:
                if "items" in result:
                    read_items(self.run.results_dir, result)
                return result
        return None

    def measure(
        self, name: str, instrument: Instrument, inputs: Inputs | str, progress: Progress | None
    ) -> dict[str, Any]:
        """Use an instrument and write what it found, or why it does not apply."""

        def tell(done: int, total: int) -> None:
            if progress is not None:
                progress(f"{KIND}-{name}", done, total)

        why_not = inputs if isinstance(inputs, str) else instrument.why_not(self.sublayers)
        began = time.perf_counter()
        dispatch.reset()
        if why_not is not None or isinstance(inputs, str):
            found = Finding("", {}, {})
        else:
            found = self._look(instrument, inputs, tell)
        about = {"title": instrument.title, "unit": instrument.unit, "source": instrument.source}
        payload = {
            "metric": found.metric or None,
            **({} if found.metric else {"value": None, "stderr": None, "n": 0}),
            "metrics": found.metrics,
            "tables": found.tables,
            "wall_sec": time.perf_counter() - began,
            "ops": dispatch.used(),
            "step": self.manifest["step"],
            "seed": self.recipe.seed,
            "why_not": why_not,
            "instrument": about,
            "is_extrapolated": isinstance(inputs, Inputs) and inputs.is_extrapolated,
            **self.key(instrument, inputs),
        }
        written = self.run.write_result(KIND, name, payload, found.rows)
        return read_json(written)

    def _look(self, instrument: Instrument, inputs: Inputs, tell: Tell) -> Finding:
        subject = Subject(self.model, inputs, self.layers)
        with threads(self.recipe.train.threads):
            if instrument.needs_grad:
                return instrument.run(subject, tell)
            with inference(self.model, self.dtype):
                return instrument.run(subject, tell)

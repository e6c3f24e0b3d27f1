"""A name of the harness -> its task objects, each made from the harness's own file."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from braidlm.arch.config import nearest
from braidlm.arch.tasks import HarnessTask
from braidlm.errors import InputError
from braidlm.tasks.harness import harness, quietly
from braidlm.tasks.harness.offline import offline

PLACES = {
    "hellaswag": "hellaswag",
    "piqa": "piqa",
    "arc_easy": "arc",
    "arc_challenge": "arc",
    "winogrande": "winogrande",
    "boolq": "super_glue/boolq",
    "openbookqa": "openbookqa",
    "copa": "super_glue/copa",
    "sciq": "sciq",
    "social_iqa": "siqa",
    "commonsense_qa": "commonsense_qa",
    "lambada_openai": "lambada",
    "truthfulqa_mc1": "truthfulqa",
    "truthfulqa_mc2": "truthfulqa",
}
"""Where common tasks lie among the harness's files: reading all 14,000 takes ten seconds."""
FEWSHOT_SEED = 1234
"""Source: lm-evaluation-harness's default."""
UNTOLD = {"task", "group", "task_alias", "group_alias"}
"""What a group may say of a task of its without changing it."""


class Leaf(NamedTuple):
    """One task of the harness."""

    name: str
    file: Path
    config: Mapping[str, Any]
    """What the file says; functions by name."""


class Found(NamedTuple):
    """What a name stands for."""

    leaves: tuple[Leaf, ...]
    is_by_size: bool
    """Of a group: whether every document counts the same, or every task."""


def find(name: str) -> Found:
    """Return the tasks that a name of the harness stands for.

    Raises:
        InputError: the harness is not installed, or has no such task.
    """
    folder = Path(str(harness().__file__)).parent / "tasks"
    if name.endswith(".yaml"):
        return Found((_of_file(Path(name)),), True)
    if name in PLACES:
        near = _index(folder / PLACES[name])
        if name in near:
            return Found((_leaf(near, name),), True)
    whole = _index(None)
    entry = whole.get(name)
    if entry is None:
        raise InputError(f"lm-evaluation-harness has no task '{name}'{nearest(name, list(whole))}")
    if entry.kind.name == "TAG":
        raise InputError(
            f"'{name}' is a mark of several tasks in lm-evaluation-harness, which have no common "
            f"figure: name some of {', '.join(sorted(entry.tags))[:400]}"
        )
    metrics = (entry.cfg or {}).get("aggregate_metric_list") or []
    metrics = metrics if isinstance(metrics, list) else [metrics]
    is_by_size = all(metric.get("weight_by_size", True) for metric in metrics)
    return Found(tuple(dict.fromkeys(_leaves(whole, name))), is_by_size)


def _of_file(file: Path) -> Leaf:
    """Return the task that a file of one's own declares."""
    if not file.is_file():
        raise InputError(f"file {file} of a task for lm-evaluation-harness does not exist")
    index = _index.__wrapped__(file.parent)
    for name, entry in index.items():
        if entry.yaml_path is not None and Path(entry.yaml_path).samefile(file):
            return _leaf(index, name)
    raise InputError(f"file {file} declares no task for lm-evaluation-harness")


@cache
def _index(folder: Path | None) -> Mapping[str, Any]:
    """Return name -> entry of the harness's files in a folder; None: of all."""
    from lm_eval.tasks import TaskManager

    with quietly():
        if folder is None:
            return TaskManager().task_index
        return TaskManager(include_path=str(folder), include_defaults=False).task_index


def _leaf(index: Mapping[str, Any], name: str) -> Leaf:
    entry = index[name]
    if entry.yaml_path is None:
        raise InputError(f"task '{name}' of lm-evaluation-harness has no file of its own")
    return Leaf(name, Path(entry.yaml_path), _Hashed(entry.cfg or {}))


class _Hashed(dict[str, Any]):
    """A configuration told apart by where it lies in memory."""

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


def _leaves(index: Mapping[str, Any], name: str) -> Iterator[Leaf]:
    """Yield the tasks below a name, in the order of the group's file."""
    if name not in index:
        raise InputError(f"lm-evaluation-harness has no task '{name}', which a group of it names")
    entry = index[name]
    if entry.kind.name == "TAG":
        for child in sorted(entry.tags):
            yield from _leaves(index, child)
    elif entry.kind.name == "GROUP":
        for child in entry.cfg.get("task") or ():
            called = child if isinstance(child, str) else child.get("task") or child.get("group")
            changed = set() if isinstance(child, str) else set(child) - UNTOLD
            if changed or not isinstance(called, str):
                raise InputError(
                    f"group '{name}' of lm-evaluation-harness changes {called} "
                    f"({', '.join(sorted(changed)) or 'a group inside'}): name its tasks instead"
                )
            yield from _leaves(index, called)
    else:
        yield _leaf(index, name)


class Made(NamedTuple):
    """A task of the harness, ready to be asked."""

    name: str
    task: Any
    """Its object, of class ``lm_eval.api.task.ConfigurableTask``."""
    n_shots: int
    split: str
    """Whose questions are asked."""
    version: Any
    """Of the task, as its file says."""


def make(leaf: Leaf, asked: HarnessTask) -> Made:
    """Make the task object: the harness's own file, over the Hub or over a folder's files.

    Raises:
        InputError: a file that is missing, and whatever the harness cannot do with the data.
    """
    config = leaf.config
    n_shots = config.get("num_fewshot")
    if asked.num_fewshot is not None and n_shots != 0:  # as the harness: 0 in a file stays
        n_shots = asked.num_fewshot
    n_shots = int(n_shots or 0)
    _refuse(leaf)
    lines = [f"include: {json.dumps(str(leaf.file))}", f"task: {json.dumps(leaf.name)}"]
    about = ""
    split = next((str(config[f]) for f in ("test_split", "validation_split") if config.get(f)), "")
    if asked.path:
        found = offline(leaf.name, config, Path(asked.path), n_shots)
        split = found.split
        about = (
            f" of {', '.join(found.files.values())}, whose records must have the fields of "
            f"{config.get('dataset_path')}"
        )
        lines += [
            "custom_dataset: !function braidlm.tasks.harness.offline.read_splits",
            f"dataset_kwargs: {json.dumps({'files': found.files, 'only': found.only})}",
            "metadata: {}",
            *(f"{field}: null" for field in found.missing),
        ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "task.yaml"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        task = _loaded(leaf.name, file, about)
    task.set_config(key="num_fewshot", value=n_shots)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    metadata = config.get("metadata")
    version = metadata.get("version") if isinstance(metadata, dict) else None
    return Made(leaf.name, task, n_shots, split, version)


def _loaded(name: str, file: Path, about: str) -> Any:
    from lm_eval.tasks import TaskManager

    state = random.getstate()
    random.seed(0)  # some files draw the order of their answers
    try:
        with quietly():
            manager = TaskManager(include_defaults=False)
            (task,) = manager.load(str(file))["tasks"].values()
    except InputError:
        raise
    except Exception as error:  # whatever the harness or a file of it raises
        raise InputError(
            f"lm-evaluation-harness cannot make its task '{name}'{about} ({_line(error)})"
        ) from None
    finally:
        random.setstate(state)
    return task


def _refuse(leaf: Leaf) -> None:
    """Refuse what would run code that a model wrote, or code from the Hub."""
    config = leaf.config
    if config.get("unsafe_code"):
        raise InputError(f"task '{leaf.name}' runs code that a model wrote: it is not asked here")
    metrics = config.get("metric_list") or []
    if any(isinstance(metric, dict) and metric.get("hf_evaluate") for metric in metrics):
        raise InputError(f"task '{leaf.name}' loads the code of a metric from the Hub: not here")
    if config.get("doc_to_image") or config.get("doc_to_audio"):
        raise InputError(f"task '{leaf.name}' asks about pictures or sounds, not text alone")


def _line(error: BaseException) -> str:
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:300]}" if said else type(error).__name__

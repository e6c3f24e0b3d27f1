"""The harness's tasks over data files of one's own: which file each split is, and its records.

    FOLDER/hellaswag/validation.jsonl.gz
    FOLDER/arc_easy/test.jsonl.gz
    FOLDER/mmlu/{dev,test}.jsonl.gz          all subjects in one file, told apart by `subject`

The fields of a record are those of the data set on the Hub that the harness's file names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from braidlm.data.records import read_jsonl
from braidlm.data.split_files import absent, places, split_file
from braidlm.errors import InputError

OTHER_NAMES = {
    "lighteval/siqa": "social_i_qa",
    "truthfulqa/truthful_qa": "truthfulqa",
    "cais/mmlu": "mmlu",
    "hails/mmlu_no_train": "mmlu",
}
"""A data set of the Hub -> what its folder is called, besides its own names."""
SUBJECTS = {"cais/mmlu": "subject", "hails/mmlu_no_train": "subject"}
"""A data set of the Hub -> the field that tells its configurations apart in one file."""
SPLITS = ("test_split", "validation_split", "training_split", "fewshot_split")
"""Where a task of the harness names a split."""


class Offline(NamedTuple):
    """A task's data, read from files."""

    files: dict[str, str]
    """Split -> file."""
    only: dict[str, str]
    """Field -> value of the records that are meant; empty: all."""
    missing: tuple[str, ...]
    """Of `SPLITS`, those whose split has no file."""
    split: str
    """The one whose questions are asked."""


def offline(name: str, config: Mapping[str, Any], folder: Path, n_shots: int) -> Offline:
    """Find the files of a task.

    Args:
        name: of the task in the harness.
        config: what its file says.
        folder: see above.
        n_shots: worked examples before a question.

    Raises:
        InputError: no such folder or file, or none with worked examples.
    """
    hub, part = str(config.get("dataset_path") or ""), str(config.get("dataset_name") or "")
    splits = {field: str(config[field]) for field in SPLITS if config.get(field)}
    asked = [splits[field] for field in SPLITS[:2] if field in splits]
    names = (OTHER_NAMES.get(hub, name), name, hub.rpartition("/")[2], part)
    there = places(folder, names)
    place = next((p for p in there if any(split_file(p, split) for split in asked)), None)
    if place is None:
        raise InputError(absent(there[0], (asked or ["validation"])[0]))
    found = {field: split_file(place, split) for field, split in splits.items()}
    files = {splits[field]: str(file) for field, file in found.items() if file is not None}
    split = next(s for s in asked if s in files)
    drawn = [splits.get(f) for f in ("fewshot_split", "training_split", "validation_split")]
    drawn = [s for s in drawn if s in files]
    if n_shots and (not drawn or drawn[0] == split):
        wanted = splits.get("fewshot_split") or splits.get("training_split") or "train"
        raise InputError(
            f"{absent(place, wanted)}: num_fewshot = {n_shots} needs worked examples besides the "
            "questions"
        )
    only = {SUBJECTS[hub]: part} if hub in SUBJECTS else {}
    missing = tuple(field for field, file in found.items() if file is None)
    return Offline(files, only, missing, split)


def read_splits(
    files: Mapping[str, str], only: Mapping[str, str], config_source: str = ""
) -> dict[str, Any]:
    """Return split -> data set: what the harness calls instead of loading from the Hub.

    Args:
        files: see `Offline`.
        only: see `Offline`.
        config_source: what the harness tells of its task; not read.

    Raises:
        InputError: a damaged file, an empty one, or records that differ in their fields' types.
    """
    import datasets

    found = {}
    for split, file in files.items():
        records = [
            record
            for _, record in read_jsonl(Path(file))
            if all(record.get(field) == value for field, value in only.items())
        ]
        if not records:
            wanted = "".join(f" with {field} = '{value}'" for field, value in only.items())
            raise InputError(f"data file {file} holds no record{wanted}")
        try:
            found[split] = datasets.Dataset.from_list(records)
        except Exception as error:  # whatever pyarrow raises
            raise InputError(
                f"data file {file}: its records do not have one type ({str(error)[:120]})"
            ) from None
    return found

"""What stays of the weights of runs that are done: those of many arms would fill a disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from braidlm.runs import INIT, Run
from braidlm.study.config import Keep


def forget_weights(folder: Path, keep: Keep) -> None:
    """Delete the weights of a run that need not stay; results, metrics and settings do.

    What the run began with goes in either case but "all": `init/origin.json` says where it lies,
    and its SHA-256. A run without weights whose tasks change is trained again by `--resume`.

    Args:
        folder: of a run that is done; nobody else may write to it.
        keep: "all", "last" (the last checkpoint) or "none".
    """
    if keep == "all":
        return
    with Run(folder).lock():
        own = sorted((folder / "checkpoints").glob("step-*"), key=lambda p: int(p.name[5:]))
        gone = own if keep == "none" else own[:-1]
        for path in [*gone, *(folder / INIT / "checkpoints").glob("step-*")]:
            # Renamed first: a kill in the middle of the deletion leaves no half checkpoint.
            old = path.rename(path.with_name(f".{path.name}.old"))
            shutil.rmtree(old, ignore_errors=True)

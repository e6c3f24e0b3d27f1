"""Kill a run again and again, look at what it left each time, and let it end at last.

Three ways to die, in turn: inside a chosen change of a file (`dying`), by SIGKILL at a random
moment, and by the kernel (SIGXFSZ) at a random byte of whichever file first grows so long.
"""

from __future__ import annotations

import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from braidlm import checkpoint, report
from braidlm.manifest import verify
from braidlm.runs import Run
from tests.faults.dying import Death, install
from tests.faults.small import STEPS, outcome, session, write_corpus

WAYS = ("write", "power", "time", "size")
KILLS_IN_A_ROW = 3
"""Most kills of one run before it is let to end."""
LIMIT_SEC = 120.0


@dataclass
class Report:
    """What came of all kills."""

    landed: Counter[str] = field(default_factory=Counter)
    """Kills that met a living process, by way."""
    missed: int = 0
    """Sessions that had ended before their kill."""
    runs: int = 0
    """Runs that were killed, and then ended and compared."""
    defects: list[str] = field(default_factory=list)

    @property
    def n_kills(self) -> int:
        """All kills that landed."""
        return sum(self.landed.values())


def in_child(work: Callable[[], None], kill_after: float | None = None) -> tuple[int, str]:
    """Run `work` in a fork; return its wait status and what it said, a traceback included."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.dup2(writing, 2)
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)
    os.close(writing)
    began, said = time.monotonic(), b""
    while True:
        left = (kill_after if kill_after is not None else LIMIT_SEC) + began - time.monotonic()
        if not select.select([reading], [], [], max(left, 0))[0]:
            os.kill(pid, signal.SIGKILL)
            if kill_after is None:
                said += b"hung\n"
            kill_after = LIMIT_SEC
        elif not (part := os.read(reading, 65536)):
            break
        else:
            said += part
    os.close(reading)
    return os.waitpid(pid, 0)[1], said.decode(errors="replace")


def killed_session(folder: Path, way: str, chance: random.Random, scale: dict[str, float]) -> None:
    """One session in this process, which is to die in the given way."""
    real = checkpoint.save

    def save(*args: object, **settings: object) -> Path:
        path = real(*args, **settings)  # pyright: ignore[reportArgumentType]
        os.write(2, f"saved {path.name}\n".encode())
        return path

    checkpoint.save = save
    if way in ("write", "power"):
        at, share = chance.randint(1, int(scale["changes"])), chance.random()
        install(Death(folder, at, share, power=way == "power"))
    elif way == "size":
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        size = int(2 ** chance.uniform(0, scale["log2_bytes"]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    session(folder)


def examine(folder: Path, saved: int) -> list[str]:
    """What is wrong with the files of a run that was just killed after saving step `saved`."""
    run, found = folder / "run", []
    steps = [int(path.name[5:]) for path in checkpoint.checkpoints(run)]
    for path in checkpoint.checkpoints(run):
        verify(path)
    if max(steps, default=0) < saved:
        found.append(f"the checkpoint of step {saved} is lost: {steps}")
    if (run / "config.json").exists():
        opened = Run.open(run)
        logged = [row["step"] for row in opened.metrics()]
        if logged != sorted(set(logged)):
            found.append(f"steps are logged twice: {logged}")
        if steps and max(logged, default=0) < max(steps):
            found.append(f"the log ends at {max(logged, default=0)}, before {max(steps)}")
        _ = (opened.status(), opened.env, opened.results())  # each must be readable
        report.tables([run])
    return found


def compare(expected: dict, folder: Path) -> list[str]:
    """Where a run that was killed and ended differs from one that never was."""
    found = outcome(folder)
    wrong = [f"{k}: {found[k]!s:.200} != {v!s:.200}" for k, v in expected.items() if found[k] != v]
    files = [p for p in folder.rglob("*") if p.name.endswith((".tmp", ".old"))]
    files += [p for p in folder.rglob(".*") if p.is_dir()]
    return wrong + [f"left behind: {path.relative_to(folder)}" for path in files]


def measure(folder: Path) -> tuple[dict, dict[str, float]]:
    """The outcome of an unbroken run, and how many changes, seconds and bytes it takes."""
    write_corpus(folder.parent)
    warm = folder.with_name("warm")
    warm.mkdir()
    session(warm)  # the children inherit every module that this one has to import
    folder.mkdir()
    death, counted = Death(folder, 0), folder.parent / "changes"

    def count() -> None:
        install(death)
        session(folder)
        counted.write_text(str(death.seen))

    began = time.monotonic()
    status, said = in_child(count)
    assert status == 0, said
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    scale = {
        "changes": float(counted.read_text()),
        "seconds": time.monotonic() - began,
        "log2_bytes": float(max(sizes).bit_length()),
    }
    return outcome(folder), scale


def run(count: int, place: Path, seed: int = 0, ways: tuple[str, ...] = WAYS) -> Report:
    """Land `count` kills on runs below `place`; every run ends and is compared in the end."""
    chance, found = random.Random(seed), Report()
    expected, scale = measure(place / "whole")
    while found.n_kills < count:
        folder = place / f"run-{found.runs}"
        folder.mkdir()
        told: list[str] = []
        for _ in range(chance.randint(1, KILLS_IN_A_ROW)):
            told += _kill_once(folder, chance, scale, ways, found)
        status, said = in_child(lambda folder=folder: session(folder))
        told += [f"the restart failed: {said}"] if status else compare(expected, folder)
        found.runs += 1
        found.defects += [f"run {found.runs - 1}: {line}" for line in told]
        if told:
            continue  # kept to be looked at
        shutil.rmtree(folder)
    return found


def _kill_once(
    folder: Path,
    chance: random.Random,
    scale: dict[str, float],
    ways: tuple[str, ...],
    found: Report,
) -> list[str]:
    way = ways[(found.n_kills + found.missed) % len(ways)]
    inner = random.Random(chance.random())
    after = chance.uniform(0, scale["seconds"]) if way == "time" else None
    status, said = in_child(lambda: killed_session(folder, way, inner, scale), after)
    saved = [int(line[11:]) for line in said.splitlines() if line.startswith("saved step-")]
    if os.WIFSIGNALED(status):
        found.landed[way] += 1
        told = ["it hung"] if "hung" in said.splitlines() else []
    else:
        found.missed += 1
        told = [f"it failed: {said}"] if status else []
    try:
        told += examine(folder, max(saved, default=0))
    except Exception as error:
        told.append(f"what was left cannot be read: {type(error).__name__}: {error}")
    return [f"{way}: {line}" for line in told]


def table(found: Report) -> str:
    """The figures in words, and as one line of JSON."""
    rows = [f"  {way:<6} {n:>6}" for way, n in sorted(found.landed.items())]
    head = f"{found.n_kills} kills of {found.runs} runs of {STEPS} steps ({found.missed} missed)"
    figures = {
        "kills": found.n_kills,
        "by_way": dict(sorted(found.landed.items())),
        "missed": found.missed,
        "runs": found.runs,
        "defects": found.defects,
    }
    return "\n".join([head, *rows, *found.defects[:20], json.dumps(figures)])

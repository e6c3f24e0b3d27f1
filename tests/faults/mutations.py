"""Damage files by the thousand in bounded processes, read them, and sort what comes of it."""

from __future__ import annotations

import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from braidlm.cli.main import TOO_LARGE
from braidlm.errors import InputError
from tests.faults import mutate
from tests.faults.subjects import SUBJECTS, RefusedError, Subject, prepare, seal, setup

LIMIT_SEC = 20
MORE_BYTES = 3 << 30
"""Address space beyond what the process has when it begins."""
BATCH = 100
"""Damages of one process."""


@dataclass
class Report:
    """How many damages ended how: subject -> outcome -> number."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    defects: list[str] = field(default_factory=list)

    def add(self, subject: str, outcome: str, told: str) -> None:
        """Count one damage; `told` says what is wrong, or nothing."""
        self.counts.setdefault(subject, Counter())[outcome] += 1
        if told:
            self.defects.append(told)


@dataclass(frozen=True)
class Damage:
    """One file of one subject, altered in one way that the number decides."""

    subject: Subject
    number: int

    def apply(self, folder: Path) -> tuple[Path, str]:
        """Alter the file; return it and the name of the way."""
        chance = random.Random(f"{self.subject.name} {self.number}")
        pattern = chance.choice(self.subject.files)
        files = sorted(p for p in folder.glob(pattern) if p.is_file() and p.stat().st_size)
        file = chance.choice(files)
        way = chance.choice(mutate.of(file.name))
        file.write_bytes(way(file.read_bytes(), chance))
        if self.subject.is_sealed:
            seal(file)
        return file, way.__name__


def run(count: int, place: Path, seed: int = 0) -> Report:
    """Try `count` damages, shared out by the subjects' weights."""
    setup()
    prepare(place / "sound")
    found, total = Report(), sum(s.weight for s in SUBJECTS)
    for subject in SUBJECTS:
        n = -(-count * subject.weight // total)
        numbers = [seed * 1_000_000 + i for i in range(n)]
        while numbers:
            numbers = _batch(subject, numbers, place, found)
        print(subject.name, dict(found.counts[subject.name]), file=sys.stderr, flush=True)
    return found


def _batch(subject: Subject, numbers: list[int], place: Path, found: Report) -> list[int]:
    """Try the first numbers in a process of their own; return those that are left to try."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            _limit()
            with os.fdopen(writing, "w") as pipe:
                for number in numbers[:BATCH]:
                    told = _try(Damage(subject, number), place)
                    pipe.write(json.dumps(told) + "\n")
                    pipe.flush()
        finally:
            os._exit(0)
    os.close(writing)
    lines = list(_lines(reading, pid))
    status = os.waitpid(pid, 0)[1]
    for line in lines:
        found.add(subject.name, *line)
    if len(lines) == len(numbers[:BATCH]):
        return numbers[BATCH:]
    lost = numbers[len(lines)]
    found.add(subject.name, "died", f"{subject.name} {lost}: its process died, status {status}")
    return numbers[len(lines) + 1 :]


def _lines(reading: int, pid: int) -> Iterator[list[str]]:
    """What the process tells, one line each; it is killed when it is silent for too long."""
    data = b""
    while True:
        if not select.select([reading], [], [], 2 * LIMIT_SEC)[0]:
            os.kill(pid, signal.SIGKILL)  # stuck where no signal handler runs
        part = os.read(reading, 1 << 16)
        *whole, data = (data + part).split(b"\n")
        yield from map(json.loads, whole)
        if not part:
            os.close(reading)
            return


def _limit() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MORE_BYTES, used + MORE_BYTES))
    signal.signal(signal.SIGALRM, _late)


class LateError(BaseException):
    """A reading took too long."""


def _late(*_: object) -> None:
    raise LateError


_sound: dict[str, Any] = {}


def _try(damage: Damage, place: Path) -> tuple[str, str]:
    """Return the outcome, and what is wrong with it."""
    subject = damage.subject
    folder = place / "damaged"
    if subject.name not in _sound:
        _renew(place, folder)
        _sound[subject.name] = subject.read(folder)
        _renew(place, folder)
    file, way = damage.apply(folder)
    try:
        return _read(damage, folder, file, way)
    finally:
        if subject.writes:
            _renew(place, folder)
        else:
            _put_back(place, folder, file)


def _read(damage: Damage, folder: Path, file: Path, way: str) -> tuple[str, str]:
    subject = damage.subject
    name = f"{subject.name} {damage.number} ({file.relative_to(folder)}, {way})"
    signal.alarm(LIMIT_SEC)
    try:
        value = subject.read(folder)
    except (InputError, RefusedError) as error:
        return _judge_sentence(str(error), file, name)
    except LateError:
        return "hung", f"{name}: took more than {LIMIT_SEC} s"
    except OSError as error:  # the command line says these as "file: reason"
        is_named = error.filename and file.name in str(error.filename)
        return ("refused", "") if is_named else ("traceback", f"{name}: {error!r}")
    except (MemoryError, OverflowError, RuntimeError) as error:
        if TOO_LARGE.search(f"{type(error).__name__} {error}"):
            return "too large", ""  # a size that no machine has; the command line says so
        return "traceback", f"{name}: {error!r:.300}"
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {str(error)[:160]} ({where.filename}:{where.lineno})"
        return "traceback", f"{name}: {said}"
    finally:
        signal.alarm(0)
    if value == _sound[subject.name]:
        return "same", ""
    return ("other", "") if subject.is_free else ("wrong", f"{name}: loads something else")


def _judge_sentence(said: str, file: Path, name: str) -> tuple[str, str]:
    shown = said.removesuffix("\n")
    if len(shown) > 1500 or "Traceback" in shown:
        return "unclear", f"{name}: a sentence of {len(shown)} characters: {shown[:200]}"
    if "pattern" not in file.name and not any(n in shown for n in _names(file)):
        return "unnamed", f"{name}: names no file: {shown[:200]}"
    return "refused", ""


def _names(file: Path) -> Iterator[str]:
    """The file itself, and the folder of a part of a checkpoint, corpus, run or study."""
    yield file.name
    if file.parent.name != "damaged":
        yield file.parent.name
    if file.name == "study.toml":
        yield "arm '"


def _renew(place: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place / "sound", folder)


def _put_back(place: Path, folder: Path, file: Path) -> None:
    """Restore a damaged file, and the manifest that may vouch for it."""
    for path in (file, file.with_name("manifest.json")):
        sound = place / "sound" / path.relative_to(folder)
        if sound.exists():
            shutil.copyfile(sound, path)


def table(found: Report) -> str:
    """The figures as rows, and as one line of JSON."""
    outcomes = ("refused", "too large", "same", "other")
    head = f"{'':18}" + "".join(f"{name:>10}" for name in (*outcomes, "harm"))
    rows = [head]
    for subject, counts in found.counts.items():
        harm = sum(n for name, n in counts.items() if name not in outcomes)
        rows.append(f"{subject:18}" + "".join(f"{counts[n]:10}" for n in outcomes) + f"{harm:10}")
    total = sum(sum(counts.values()) for counts in found.counts.values())
    figures = {
        "mutations": total,
        "counts": {subject: dict(counts) for subject, counts in found.counts.items()},
        "defects": found.defects,
    }
    return "\n".join([f"{total} mutations", *rows, *found.defects[:200], json.dumps(figures)])

"""Where a number comes from: code version, packages, machine, command line."""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = (
    "braidlm",
    "torch",
    "numpy",
    "pydantic",
    "safetensors",
    "tokenizers",
    "triton",
    "transformers",
    "lm_eval",
    "datasets",
    "matplotlib",
    "spacy",
    "lemminflect",
    "wordfreq",
    "sentence-transformers",
)


def now() -> str:
    """Return the present moment in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def package_versions() -> dict[str, str]:
    """Return the versions of the installed packages that can change a result; imports none."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


@functools.cache
def git_commit() -> str | None:
    """Return the commit of the checkout this package runs from (`-dirty` when edited), or None."""
    package = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        # A package installed inside somebody else's repository has no commit of its own there.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != package.parent:
            return None
        edited = git("status", "--porcelain", "--untracked-files=no", "--", str(package))
        return git("rev-parse", "HEAD") + ("-dirty" if edited else "")
    except (OSError, subprocess.SubprocessError):
        return None


def code_version() -> str:
    """Return the version of this package, with `+<commit>` when it runs from a checkout."""
    try:
        version = importlib.metadata.version("braidlm")
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    commit = git_commit()
    return f"{version}+{commit}" if commit else version


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def capture_env(
    *, threads: int | None = None, device: str | None = None, precision: str | None = None
) -> dict[str, Any]:
    """Return what a result depends on besides its recipe.

    threads, device and precision are told by the caller, who has resolved them.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "threads": threads,
        "device": device,
        "precision": precision,
        "packages": package_versions(),
        "code_version": code_version(),
        "git_commit": git_commit(),
        "command": _command(),
        "started_at": now(),
    }


def _command() -> str:
    """Return the command line, as a person would type it on any machine."""
    program, *arguments = sys.argv or ["python"]
    name = Path(program).name
    return shlex.join(["braid" if name == "__main__.py" else name, *arguments])

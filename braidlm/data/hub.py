"""Names of the Hugging Face Hub: which commit one means, and where its tokenizer's files lie."""

import contextlib
import re
from pathlib import Path
from typing import Literal

from braidlm.arch.sources import HUB
from braidlm.data.compression import needs
from braidlm.errors import InputError

_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_SEC = 20.0
_TOKENIZER_FILES = ("*token*", "config.json", "vocab.*", "merges.txt", "*.model", "*.tiktoken")


def is_local(name: str) -> bool:
    """Whether what follows "hf:" is a folder of this machine."""
    return bool(name) and Path(name).is_dir()


def commit_of(kind: Literal["model", "dataset"], name: str, revision: str) -> str:
    """Return the commit that a revision of a repository is now; a commit is itself.

    Raises:
        InputError: no such repository or revision, or the hub cannot be reached.
    """
    if _COMMIT.fullmatch(revision):
        return revision
    _check_name(name)
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise needs("huggingface_hub", "hf", f"'{HUB}{name}'") from None
    try:
        found = HfApi().repo_info(
            name, revision=revision or None, repo_type=kind, timeout=_TIMEOUT_SEC
        )
    except Exception as error:  # of the hub's client, of the network below it, of the system
        raise unreachable(name, error) from None
    return str(found.sha)


def tokenizer_folder(name: str) -> Path:
    """Return the folder of a tokenizer: "NAME", "NAME@REVISION", or a folder of this machine.

    What was fetched before is taken again without asking the hub, so that a tokenizer stays
    what it was; a commit as revision fixes it everywhere.

    Raises:
        InputError: as `commit_of`.
    """
    if is_local(name):
        return Path(name)
    name, _, revision = name.partition("@")
    _check_name(name)
    kept = _fetched(name, revision)
    if kept is not None and (kept / "tokenizer_config.json").is_file():
        return kept
    from huggingface_hub import snapshot_download

    try:
        commit = commit_of("model", name, revision)
        return Path(snapshot_download(name, revision=commit, allow_patterns=list(_TOKENIZER_FILES)))
    except InputError:
        if kept is not None:
            return kept
        raise
    except Exception as error:
        raise unreachable(name, error) from None


def unreachable(name: str, error: Exception) -> InputError:
    """Return the refusal of a name that led nowhere."""
    kind = type(error).__name__
    reason = str(error).strip().partition("\n")[0].rstrip(".") or kind
    if kind in ("RepositoryNotFoundError", "GatedRepoError", "DatasetNotFoundError"):
        reason = "there is none of this name, or it needs a login"
    elif kind == "RevisionNotFoundError":
        reason = "there is no such revision"
    return InputError(
        f"'{HUB}{name}' cannot be read from the Hugging Face Hub: {reason:.200} (a folder of this "
        f"machine is given as '{HUB}./FOLDER')"
    )


def _fetched(name: str, revision: str) -> Path | None:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise needs("huggingface_hub", "hf", f"'{HUB}{name}'") from None
    with contextlib.suppress(Exception):  # nothing of this name was fetched, or not this revision
        return Path(snapshot_download(name, revision=revision or None, local_files_only=True))
    return None


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(
            f"'{HUB}{name}' is neither a folder that exists nor a name of the Hugging Face Hub "
            "(NAME or OWNER/NAME)"
        )

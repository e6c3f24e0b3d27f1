"""Tokenizers in the form of the Hugging Face Hub: a folder of files, or a name there.

A `tokenizer.json` is read by the `tokenizers` library alone; for any other form `transformers`
makes the tokenizer. What opens and closes a document is what the configuration calls bos and eos.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from braidlm.arch.sources import HUB
from braidlm.data.compression import needs
from braidlm.data.hub import tokenizer_folder
from braidlm.data.tokenizer import JSONTokenizer, Tokenizer, document_ids
from braidlm.errors import InputError
from braidlm.files import read_json
from braidlm.gguf import read_header
from braidlm.gguf.tokenizer import tokenizer_files

_ROLES = ("bos", "eos", "pad")
_NO_TOKENIZER = {"config.json", "generation_config.json"}


def load_hub_tokenizer(name: str) -> Tokenizer:
    """Return the tokenizer of "hf:FOLDER", "hf:NAME" or "hf:NAME@REVISION".

    Raises:
        InputError: no such folder or name, files that are no tokenizer, no document token, or
            a package that is absent.
    """
    folder = tokenizer_folder(name.removeprefix(HUB))
    file = folder / "tokenizer.json"
    if file.is_file():
        return JSONTokenizer(name, file.read_bytes(), _named(folder))
    if {file.name for file in folder.iterdir()} <= _NO_TOKENIZER:
        raise InputError(
            f"tokenizer {name}: the folder holds none; for an imported run 'braid import' takes "
            "one by --tokenizer NAME"
        )
    return _made_by_transformers(name, folder)


def load_gguf_tokenizer(path: str | Path) -> Tokenizer:
    """Return the tokenizer that a GGUF file carries.

    Raises:
        InputError: a damaged file, or a tokenizer in it that is not rebuilt here.
    """
    made = tokenizer_files(read_header(path))
    named = _spelled(json.loads(made["tokenizer_config.json"]))
    return JSONTokenizer(path, made["tokenizer.json"], named)


class SlowTokenizer:
    """A tokenizer that only `transformers` can run, one text at a time."""

    def __init__(self, name: str, inner: Any):
        self.name, self._inner = name, inner
        vocab = inner.get_vocab()
        self.vocab_size = max(len(inner), 1 + max(vocab.values(), default=-1))
        self.bos_id, self.eos_id, self.pad_id = document_ids(name, vocab, _spellings(inner))
        import transformers

        made_of = [type(inner).__name__, transformers.__version__, sorted(vocab.items())]
        made_of += [self.bos_id, self.eos_id]
        self.fingerprint = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()

    @property
    def special(self) -> dict[int, str]:
        """Spelling of each special id, for display."""
        ids = sorted({self.bos_id, self.eos_id, self.pad_id})
        return {i: str(self._inner.convert_ids_to_tokens(i)) for i in ids}

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of `text`, (n,) int64."""
        text = text.encode("utf-8", "replace").decode("utf-8")
        # A document that merely spells "</s>" must not be cut in two.
        ids = self._inner.encode(text, add_special_tokens=False, split_special_tokens=True)
        return np.asarray(ids, dtype=np.int64)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text without special tokens; ids outside the vocabulary become U+FFFD."""
        special, parts = {self.bos_id, self.eos_id, self.pad_id}, [[]]
        for i in (int(i) for i in ids):
            if not 0 <= i < self.vocab_size:
                parts += [[]]
            elif i not in special:
                parts[-1].append(i)
        return "\ufffd".join(self._inner.decode(p, skip_special_tokens=True) for p in parts)


def _named(folder: Path) -> dict[str, str]:
    """Return the spelling of bos, eos and pad that a folder's configuration gives."""
    named: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / file).is_file():
            found = read_json(folder / file)
            if not isinstance(found, dict):
                raise InputError(f"{folder / file} must be a JSON object, not {found!r:.40}")
            named |= _spelled(found)
    return named


def _spelled(config: Mapping[str, Any]) -> dict[str, str]:
    named = {}
    for role in _ROLES:
        token = config.get(f"{role}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            named[role] = token
    return named


def _spellings(inner: Any) -> dict[str, str]:
    found = {role: getattr(inner, f"{role}_token", None) for role in _ROLES}
    return {role: str(token) for role, token in found.items() if token is not None}


def _made_by_transformers(name: str, folder: Path) -> Tokenizer:
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise needs("transformers", "hf", f"tokenizer {name} (without tokenizer.json)") from None
    try:
        inner = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # whatever the library, or a file of the folder, raises
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"tokenizer {name}: {folder} holds no tokenizer.json, and nothing else that the "
            f"transformers library takes for a tokenizer ({reason})"
        ) from None
    fast = getattr(inner, "backend_tokenizer", None)
    if fast is None:
        return SlowTokenizer(name, inner)
    return JSONTokenizer(name, fast.to_str().encode(), _spellings(inner))

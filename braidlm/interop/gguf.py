"""A GGUF file as what `interop.imports` asks of a folder: a family, a configuration, tensors."""

from __future__ import annotations

from typing import Any

from braidlm.arch import Spec
from braidlm.errors import InputError
from braidlm.gguf import Header
from braidlm.gguf.tokenizer import has_tokenizer, special_ids
from braidlm.interop.families.gguf_llama import ARCHITECTURE, FACTORS, GGUF_LLAMA, says
from braidlm.interop.families.llama import LLAMA
from braidlm.tensors import Source

N_FACTORS = 4096
"""More rotated pairs than any head has."""


def config(header: Header, source: Source) -> dict[str, Any]:
    """Return what a file says of its model: its keys, and what the tensors tell.

    Raises:
        InputError: another architecture, a part of a model, or no embedding.
    """
    found = header.get("general.architecture", str)
    if found != ARCHITECTURE:
        raise InputError(
            f"{header.path}: general.architecture = '{found:.80}'; known: {ARCHITECTURE}"
        )
    if header.get("split.count", int, 1) > 1:
        raise InputError(
            f"{header.path}: split.count = {header.fields['split.count']}: a model in several "
            "files; 'llama-gguf-split --merge' makes one of them"
        )
    ends = GGUF_LLAMA.ends
    if ends.embedding not in source.about:
        raise InputError(f"{header.path}: tensor '{ends.embedding}' is missing")
    biased = {"*.in": "attn_q", "*.out": "attn_output", "-.in": "ffn_gate", "-.out": "ffn_down"}
    keys = says(header.fields)
    keys.pop(f"{ARCHITECTURE}.vocab_size", None)  # the embedding has as many rows as it has
    return keys | {
        "vocab_size": source.about[ends.embedding].shape[0],
        "tie_embeddings": ends.head not in source.about,
        **{f"{k}_bias": f"blk.0.{name}.bias" in source.about for k, name in biased.items()},
        FACTORS: _factors(source, str(header.path)),
    }


def configuration(header: Header, spec: Spec) -> dict[str, Any]:
    """Return the `config.json` that a folder of transformers with this model would have.

    Raises:
        InputError: an id of a special token that no token has.
    """
    ids = special_ids(header) if has_tokenizer(header) else {}
    length = header.get(f"{ARCHITECTURE}.context_length", int, 0)
    return {
        **LLAMA.config(spec),
        **{f"{role}_token_id": i for role, i in ids.items() if role != "unk"},
        **({"max_position_embeddings": length} if length else {}),
    }


def _factors(source: Source, where: str) -> list[float]:
    name = "rope_freqs.weight"
    if name not in source.about:
        return []
    shape = source.about[name].shape
    if len(shape) != 1 or shape[0] > N_FACTORS:
        raise InputError(f"{where}: tensor '{name}' has shape {shape}, expected one axis")
    return source.read(name).float().tolist()

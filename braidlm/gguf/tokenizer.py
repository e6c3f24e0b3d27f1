"""The tokenizer that a GGUF file carries, as the files that the Hugging Face Hub has for one.

Byte-pair encoding over bytes alone ("gpt2" in the file): its words are parted by a pattern that the
file only names, and each name that is known here has the pattern of the tokenizer that it stands
for. Any other name is refused: a pattern that is nearly right parts some texts otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from braidlm.errors import InputError
from braidlm.gguf.header import Header
from braidlm.gguf.words import KINDS, Words

MODEL, PRE, TOKENS = "tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens"
TYPES, MERGES, TEMPLATE = "tokenizer.ggml.token_type", "tokenizer.ggml.merges", "chat_template"
CONTROL, USER_DEFINED, UNUSED = 3, 4, 5
"""Types of tokens: control tokens are no text; user-defined ones are, and are never parted."""
ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""Our names of special tokens, and how the file's keys begin: ``tokenizer.ggml.bos_token_id``."""
BYTES: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def has_tokenizer(header: Header) -> bool:
    """Whether a file carries a tokenizer at all."""
    return header.fields.get(MODEL, "none") not in ("none", "no_vocab")


def tokenizer_files(header: Header) -> dict[str, bytes]:
    """Return `tokenizer.json` and `tokenizer_config.json`, as they would lie beside a checkpoint.

    Raises:
        InputError: a kind of tokenizer or of words that is not known here, or keys that are missing
            or contradict each other.
    """
    where, kind = header.path, header.get(MODEL, str)
    if kind != "gpt2":
        told = " (SentencePiece)" if kind == "llama" else ""
        raise InputError(
            f"{where}: {MODEL} = '{kind}'{told}: only 'gpt2', byte-pair encoding, is rebuilt"
        )
    pre = header.get(PRE, str)
    if pre not in KINDS:
        raise InputError(f"{where}: {PRE} = '{pre:.80}' is not known; known: {', '.join(KINDS)}")
    tokens = _tokens(header)
    config = _config(header, tokens, KINDS[pre])
    made = {
        "tokenizer.json": _tokenizer(header, tokens, KINDS[pre], config),
        "tokenizer_config.json": config,
    }
    return {name: json.dumps(data, ensure_ascii=False).encode() for name, data in made.items()}


def special_ids(header: Header) -> dict[str, int]:
    """Return the ids of bos, eos, unk and pad, those that the file gives.

    Raises:
        InputError: an id that no token has.
    """
    n = len(header.get(TOKENS, list))
    keys = {role: f"tokenizer.ggml.{name}_token_id" for role, name in ROLES.items()}
    found = {role: header.get(k, int) for role, k in keys.items() if k in header.fields}
    for role, i in found.items():
        if not 0 <= i < n:
            raise InputError(
                f"{header.path}: {keys[role]} = {i}: allowed are ids from 0 to {n - 1}"
            )
    return found


def _tokens(header: Header) -> list[str]:
    tokens = header.get(TOKENS, list)
    types = header.get(TYPES, list, [1] * len(tokens))
    if not tokens or not isinstance(tokens[0], str) or len(types) != len(tokens):
        raise InputError(
            f"{header.path}: {TOKENS} and {TYPES} must be lists of texts and of as many numbers"
        )
    if len(set(tokens)) < len(tokens):
        twice = next(token for i, token in enumerate(tokens) if tokens.index(token) < i)
        raise InputError(f"{header.path}: {TOKENS} has '{twice:.80}' twice")
    return tokens


def _config(header: Header, tokens: Sequence[str], words: Words) -> dict[str, Any]:
    """Return the settings beside a tokenizer: special tokens, and the chat's template."""
    spelled = {f"{role}_token": tokens[i] for role, i in special_ids(header).items()}
    prefix = f"tokenizer.{TEMPLATE}"
    named = {k.removeprefix(f"{prefix}."): k for k in header.fields if k.startswith(f"{prefix}.")}
    template: Any = header.fields.get(prefix)
    if named:
        whole = {"default": prefix, **named} if template is not None else named
        template = [{"name": k, "template": header.get(v, str)} for k, v in whole.items()]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **spelled,
        "add_bos_token": header.get("tokenizer.ggml.add_bos_token", bool, words.opens),
        "add_eos_token": header.get("tokenizer.ggml.add_eos_token", bool, False),
        "clean_up_tokenization_spaces": False,
        **({} if template is None else {TEMPLATE: template}),
    }


def _tokenizer(
    header: Header, tokens: list[str], words: Words, config: dict[str, Any]
) -> dict[str, Any]:
    if header.get("tokenizer.ggml.add_space_prefix", bool, False):
        raise InputError(
            f"{header.path}: tokenizer.ggml.add_space_prefix = true: allowed is false beside 'gpt2'"
        )
    types = header.get(TYPES, list, [1] * len(tokens))
    kept = {token: i for i, token in enumerate(tokens) if types[i] != UNUSED}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added(token, i, types[i])
            for token, i in kept.items()
            if types[i] in (CONTROL, USER_DEFINED)
        ],
        "normalizer": None,
        "pre_tokenizer": words.json(BYTES),
        "post_processor": _around(config, kept),
        "decoder": BYTES | {"use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": words.whole_first,
            "vocab": kept,
            "merges": _merges(header, kept),
        },
    }


def _added(token: str, i: int, kind: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": i, "content": token, **flags, "special": kind == CONTROL}


def _merges(header: Header, vocab: dict[str, int]) -> list[list[str]]:
    """Return the pairs; no token of bytes holds a space, which stands between the two."""
    found = []
    for i, line in enumerate(header.get(MERGES, list)):
        left, space, right = str(line).partition(" ")
        if not space or not {left, right, left + right} <= vocab.keys():
            raise InputError(f"{header.path}: {MERGES} {i} is {line!r:.80}: no pair of its tokens")
        found.append([left, right])
    return found


def _around(config: dict[str, Any], vocab: dict[str, int]) -> dict[str, Any] | None:
    """Return what adds bos and eos, where the file says that a text is given them."""
    bos, eos = (
        [{"SpecialToken": {"id": config[f"{role}_token"], "type_id": 0}}]
        if config[f"add_{role}_token"] and f"{role}_token" in config
        else []
        for role in ("bos", "eos")
    )
    used = [part["SpecialToken"]["id"] for part in (*bos, *eos)]
    if not used:
        return None
    text = [{"Sequence": {"id": "A", "type_id": 0}}]
    other = [{"Sequence": {"id": "B", "type_id": 1}}]
    special = {t: {"id": t, "ids": [vocab[t]], "tokens": [t]} for t in used}
    return {
        "type": "TemplateProcessing",
        "single": [*bos, *text, *eos],
        "pair": [*bos, *text, *eos, *bos, *other, *eos],
        "special_tokens": special,
    }

"""The three questions of lm-evaluation-harness, put to a model in text.

    loglikelihood   ("Q: 2 + 2?\\nA:", " 4")                 -> log p of " 4", is it greedy
    rolling         ("The tower was built in 1887.",)        -> log p of the whole text
    generate        ("Q: 2 + 2?\\nA:", {"until": ["\\n"]})    -> " 4"

A context and what follows it are encoded as one text and cut where the context alone ends; spaces
at a context's end belong to what follows. A text opens with bos, see `Asking.add_bos`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from braidlm.data.tokenizer import Tokenizer
from braidlm.errors import InputError
from braidlm.generate import generate
from braidlm.tasks.greedy import continued
from braidlm.tasks.likelihood import Likelihood, Pair, likelihoods
from braidlm.tasks.scoring import TOKENS_AT_ONCE

Told = Callable[[int], None]
MAX_NEW_TOKENS = 256
"""Of a task that does not say. Source: lm-evaluation-harness's backends."""


class Asking(NamedTuple):
    """How a model is asked."""

    add_bos: bool = True
    """Whether bos opens every text, as in training. A text without context opens with it anyway."""
    max_length: int | None = None
    """Tokens of a context and its continuation at most, cut from the left; None: never cut."""
    window: int = 2048
    """Tokens of a window of `rolling` where `max_length` says nothing."""
    batch_size: int | None = None
    """Requests of one forward pass; None: as many as `likelihood` and `generate` take together."""


def encode_pairs(
    tokenizer: Tokenizer, texts: Sequence[tuple[str, str]], asking: Asking
) -> list[Pair]:
    """Return the tokens of each context, bos before them, and of what follows it.

    Raises:
        InputError: nothing follows it, in tokens.
    """
    bos = np.array([tokenizer.bos_id])
    wholes = tokenizer.encode_batch([context + continuation for context, continuation in texts])
    heads = tokenizer.encode_batch([context.rstrip() for context, _ in texts])
    pairs = []
    for text, whole, head in zip(texts, wholes, heads, strict=True):
        first = bos if asking.add_bos or not len(head) else bos[:0]
        pair = Pair(np.concatenate([first, head]), whole[len(head) :])
        if not len(pair.continuation):
            raise InputError(f"nothing is left of {text[1]!r:.80} after {text[0][-80:]!r}")
        pairs.append(_cut(pair, asking.max_length))
    return pairs


def _cut(pair: Pair, max_length: int | None) -> Pair:
    """Drop the first tokens of a context that is too long; the last token is never fed."""
    if max_length is None:
        return pair
    room = max_length + 1 - len(pair.continuation)
    if room < 1:
        raise InputError(
            f"max_length = {max_length}: must hold a continuation of {len(pair.continuation)} "
            "tokens"
        )
    return pair._replace(context=pair.context[-room:])


def loglikelihood(
    model: nn.Module,
    tokenizer: Tokenizer,
    texts: Sequence[tuple[str, str]],
    asking: Asking,
    told: Told | None = None,
) -> list[Likelihood]:
    """Return log p of each continuation after its context.

    Args:
        model: in evaluation mode, see `generate.mode.inference`.
        tokenizer: of the model.
        texts: (context, continuation).
        asking: see `Asking`.
        told: how many requests each batch had.

    Raises:
        InputError: see `encode_pairs`.
    """
    pairs = encode_pairs(tokenizer, texts, asking)
    return likelihoods(model, pairs, asking.batch_size, told)


def windows(tokens: np.ndarray, bos_id: int, size: int) -> list[Pair]:
    """Return what is predicted from what, so that every token of a text is predicted once.

    Windows of `size` inputs follow each other; bos opens the first one, the last token of the one
    before opens a later one, and the last window reaches back until it is full.

    Source: lm-evaluation-harness, ``utils.get_rolling_token_windows`` with a context of one.
    """
    whole = np.concatenate([[bos_id], tokens])
    found = []
    for start in range(0, len(tokens), size):
        end = min(start + size, len(tokens))
        context = whole[max(0, end - size) if start else 0 : start + 1]
        found.append(Pair(context, tokens[start:end]))
    return found


def rolling(
    model: nn.Module,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    asking: Asking,
    told: Told | None = None,
) -> list[float]:
    """Return log p of each text, by windows of the model's length; arguments as `loglikelihood`."""
    size = asking.max_length or asking.window
    encoded = tokenizer.encode_batch(texts)
    cut = [windows(tokens, tokenizer.bos_id, size) for tokens in encoded]
    flat = [pair for some in cut for pair in some]
    found = iter(likelihoods(model, flat, asking.batch_size, told))
    return [sum(next(found).logprob for _ in some) for some in cut]


class Wanted(NamedTuple):
    """How a text is to be continued."""

    until: tuple[str, ...]
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int


def wanted(settings: Mapping[str, Any]) -> Wanted:
    """Read a request's settings; sampling is off unless it is asked for.

    Raises:
        InputError: a setting that we do not know.
    """
    left = dict(settings)
    until = left.pop("until", None) or ()
    until = (until,) if isinstance(until, str) else tuple(until)
    names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
    lengths = [found for name in names if (found := left.pop(name, None)) is not None]
    temperature = float(left.pop("temperature", None) or 0.0)
    does_sample = left.pop("do_sample", None)
    if does_sample is False:
        temperature = 0.0
    elif does_sample and temperature == 0:
        temperature = 1.0
    top_p, top_k = float(left.pop("top_p", None) or 1.0), int(left.pop("top_k", None) or 0)
    if left:
        raise InputError(
            f"generation setting '{min(left)}' = {left[min(left)]!r:.40}: allowed are until, "
            f"{', '.join(names)}, do_sample, temperature, top_p, top_k"
        )
    return Wanted(until, int((lengths or [MAX_NEW_TOKENS])[0]), temperature, top_p, top_k)


def generated(
    model: nn.Module,
    tokenizer: Tokenizer,
    asked: Sequence[tuple[str, Mapping[str, Any]]],
    asking: Asking,
    told: Told | None = None,
) -> list[str]:
    """Return how each text goes on, up to a stop, eos or the last token that is allowed.

    Args:
        model: in evaluation mode, see `generate.mode.inference`.
        tokenizer: of the model.
        asked: (context, settings); see `wanted`.
        asking: see `Asking`.
        told: how many requests each batch had.

    Raises:
        InputError: see `wanted`.
    """
    found = [""] * len(asked)
    ways: dict[Wanted, list[int]] = {}
    for i, (_, settings) in enumerate(asked):
        ways.setdefault(wanted(settings), []).append(i)
    for way, numbers in ways.items():
        prompts = {i: _prompt(tokenizer, asked[i][0], way, asking) for i in numbers}
        left = sorted(numbers, key=lambda i: (-len(prompts[i]), i))
        while left:
            longest = len(prompts[left[0]]) + way.max_new_tokens
            n = asking.batch_size or max(1, TOKENS_AT_ONCE // longest)
            batch, left = left[:n], left[n:]
            said = _said(model, tokenizer, [prompts[i] for i in batch], way, batch[0])
            for i, text in zip(batch, said, strict=True):
                found[i] = text
            if told is not None:
                told(len(batch))
    return found


def _prompt(tokenizer: Tokenizer, context: str, way: Wanted, asking: Asking) -> np.ndarray:
    tokens = tokenizer.encode(context)
    if asking.add_bos or not len(tokens):
        tokens = np.concatenate([[tokenizer.bos_id], tokens])
    if asking.max_length is None:
        return tokens
    room = asking.max_length - way.max_new_tokens
    if room < 1:
        raise InputError(
            f"max_length = {asking.max_length}: must be more than the {way.max_new_tokens} tokens "
            "that are to be generated"
        )
    return tokens[-room:]


def _said(
    model: nn.Module, tokenizer: Tokenizer, prompts: list[np.ndarray], way: Wanted, first_row: int
) -> list[str]:
    def text(tokens: Sequence[int]) -> str:
        return tokenizer.decode(takewhile(lambda token: token != tokenizer.eos_id, tokens))

    def is_done(tokens: list[int]) -> bool:
        said = text(tokens)
        return tokenizer.eos_id in tokens or any(stop in said for stop in way.until if stop)

    if way.temperature == 0:
        given = continued(model, prompts, way.max_new_tokens, is_done)
    else:
        given = generate(
            model,  # pyright: ignore[reportArgumentType]
            [prompt.tolist() for prompt in prompts],
            max_new_tokens=way.max_new_tokens,
            temperature=way.temperature,
            top_p=way.top_p,
            top_k=way.top_k,
            stop_ids=[tokenizer.eos_id],
            first_row=first_row,
        )
    return [_until(text(tokens), way.until) for tokens in given]


def _until(text: str, stops: Sequence[str]) -> str:
    ends = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    return text[: min(ends, default=None)]

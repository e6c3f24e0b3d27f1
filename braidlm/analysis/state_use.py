"""What recurrent states hold: rank and size along the context, and pairs that can be read back.

Along each document, after 1/8, 1/4, 1/2 and all of its tokens, for the matrix S of every head::

    rank = exp(H(s / sum s)), s the singular values of S           effective rank, 1 .. min(P, N)
    norm = || S ||_F

A norm that goes on growing beyond the length that was trained on, or a rank that falls, is what
state collapse looks like. `growth` is the exponent of the norm over the second half of the
document: log2 of its norm over that of the half; 0 for a state in balance, 0.5 for a sum of
independent writes, 1 for writes of one direction.

Read-out (`braidlm.analysis.readout`): prompts of K keys with random values, shown once, are read by
the model, and a linear map fitted to some prompts' states guesses the values of others. Keys and
values are those of the documents' questions, or else tokens of the text at random.

Source: Roy and Vetterli 2007 (effective rank); Chen et al. 2024 (arXiv 2410.07145), state collapse.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from braidlm.analysis.capture import walk
from braidlm.analysis.inputs import Inputs
from braidlm.analysis.instrument import (
    Finding,
    Instrument,
    Row,
    Subject,
    Tell,
    cells,
    item,
    over_documents,
)
from braidlm.analysis.memories import Memory, about, change
from braidlm.analysis.memory_length import forgets
from braidlm.analysis.readout import effective_rank, heads_of, read_out
from braidlm.arch import Sublayer
from braidlm.data.seeding import EVAL, generator
from braidlm.errors import InputError
from braidlm.generate.mode import device_of
from braidlm.model import HybridLM

PARTS = 8
"""A document is looked at after 1/8 of it, and after every doubling from there."""
N_KEYS, N_VALUES = (4, 8, 16), 8
N_TRAIN, N_TEST = 256, 128


class Symbols(NamedTuple):
    """Tokens that stand for keys and values in the prompts of the read-out."""

    keys: np.ndarray
    values: np.ndarray
    bos: int | None


def why_not(sublayers: Sequence[Sublayer]) -> str | None:
    """Whether no sublayer has a recurrent state."""
    if any(forgets(branch) for s in sublayers for branch in s.branches):
        return None
    return "no layer has a recurrent state"


def run(subject: Subject, tell: Tell) -> Finding:
    """Measure every recurrent state."""
    documents = subject.inputs.documents
    seen: dict[tuple[str, int], list[np.ndarray]] = {}
    n_rounds = len(documents) + len(N_KEYS)
    for done, document in enumerate(documents, start=1):
        for part, matrices in _along(subject, subject.tokens(document)):
            for place, heads in matrices.items():
                seen.setdefault((place, part), []).append(_told(heads))
        tell(done, n_rounds)
    places = list(dict.fromkeys(place for place, _ in seen))
    told = {at: about(at, subject.model.spec) for at in places}
    symbols = symbols_of(subject.inputs)
    pairs: list[Row] = []
    for done, n_keys in enumerate(N_KEYS, start=len(documents) + 1):
        if n_keys <= len(symbols.keys):
            found = recovered(subject, symbols, n_keys)
            pairs += [told[at] | row for at, row in found.items()]
        tell(done, n_rounds)
    tables = {
        "by_position": [told[at] | r for at in places for r in _position_rows(seen, at)],
        "by_head": [told[at] | r for at in places for r in _head_rows(seen[at, PARTS])],
        "read_out": pairs,
    }
    return Finding("rank", _metrics(seen, places, pairs), tables)


def _along(subject: Subject, tokens: Tensor) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Yield (eighths read, matrices (H, P, N) by place), going on from state to state."""
    state, before, n = None, 0, tokens.shape[1]
    for part in (1, 2, 4, PARTS):
        end = n * part // PARTS
        if end > before:
            state = subject.model(tokens[:, before:end], state=state).state
            before = end
            yield part, {at: heads_of(m)[0] for at, m in matrices_of(state, subject.layers).items()}


def matrices_of(state: Any, layers: Collection[int] | None = None) -> dict[str, Tensor]:
    """Return the matrix part of every recurrent memory by its place: not the convolution's."""
    found: dict[str, Tensor] = {}

    def note(memory: Memory, part: Any) -> Any:
        is_asked = layers is None or memory.layer in layers
        if memory.kind == "recurrent" and is_asked and memory.place not in found:
            found[memory.place] = part  # a recurrent state begins with its matrix
        return part

    change(note, state)
    return found


def _told(heads: Tensor) -> np.ndarray:
    """(H, 2): effective rank and norm of matrices (H, P, N)."""
    norms = heads.double().flatten(1).norm(dim=1)
    return torch.stack((effective_rank(heads), norms), dim=1).cpu().numpy()


def _position_rows(seen: dict[tuple[str, int], list[np.ndarray]], place: str) -> list[Row]:
    """Means over heads after each part of the documents."""
    rows = []
    for part in (1, 2, 4, PARTS):
        told = seen.get((place, part))
        if told is None:
            continue
        row: Row = {"read": part / PARTS}
        for column, name in enumerate(("rank", "norm")):
            row |= cells(name, over_documents(item, [t[:, column].mean()[None] for t in told]))
        row["highest_rank"] = float(np.mean([t[:, 0].max() for t in told]))
        rows.append(row | {"n": len(told)})
    return rows


def _head_rows(told: Sequence[np.ndarray]) -> list[Row]:
    """Every head at the documents' end."""
    rows = []
    for head in range(len(told[0])):
        row: Row = {"head": head}
        for column, name in enumerate(("rank", "norm")):
            row |= cells(name, over_documents(item, [t[head, column, None] for t in told]))
        rows.append(row | {"n": len(told)})
    return rows


def _metrics(
    seen: dict[tuple[str, int], list[np.ndarray]], places: Sequence[str], pairs: Sequence[Row]
) -> dict[str, Any]:
    """Means over all heads of all places, and the most pairs that any place gives back."""
    ends = [seen[at, PARTS] for at in places]
    rank = np.mean([[t[:, 0].mean() for t in told] for told in ends], axis=0)
    found = {"rank": over_documents(item, rank[:, None]).as_metric("dimensions")}
    halves = [seen[at, PARTS // 2] for at in places if (at, PARTS // 2) in seen]
    if len(halves) == len(ends):
        growth = np.mean(
            [
                [_growth(a, b) for a, b in zip(half, end, strict=True)]
                for half, end in zip(halves, ends, strict=True)
            ],
            axis=0,
        )
        found["growth"] = over_documents(item, growth[:, None]).as_metric("exponent")
    if pairs:
        best = max(pairs, key=lambda row: row["recovered"])
        found["recovered"] = {
            "value": best["recovered"],
            "stderr": best["recovered_stderr"],
            "n": best["n"],
            "unit": f"pairs of {best['n_keys']}",
        }
    return found


def _growth(half: np.ndarray, end: np.ndarray) -> float:
    """log2 of the norms' ratio, mean over heads that hold anything."""
    held = (half[:, 1] > 0) & (end[:, 1] > 0)
    return float(np.log2(end[held, 1] / half[held, 1]).mean()) if held.any() else 0.0


def symbols_of(inputs: Inputs) -> Symbols:
    """Return the questions' own keys and values; of text, tokens of the documents at random.

    Raises:
        InputError: documents with too few different tokens.
    """
    asked = [(document, one) for document in inputs.documents for one in document.asked]
    if asked and all(len(one.answer) == 1 for _, one in asked):
        keys = np.unique([document.tokens[one.query] for document, one in asked])
        values = np.unique([one.answer[0] for _, one in asked])
        values = np.setdiff1d(values, keys)[:N_VALUES]
        if len(keys) >= N_KEYS[0] and len(values) > 1:
            return Symbols(keys, values, None)
    known = np.unique(np.concatenate([d.tokens for d in inputs.documents]))
    bos = None if inputs.tokenizer is None else inputs.tokenizer.bos_id
    known = known if bos is None else known[known != bos]
    if len(known) < N_KEYS[0] + N_VALUES:
        raise InputError(
            f"the documents have only {len(known)} different tokens: the read-out of states needs "
            f"{N_KEYS[0] + N_VALUES}; give more documents"
        )
    drawn = generator(0, EVAL, "read-out", len(known)).permutation(known)
    return Symbols(drawn[N_VALUES:], drawn[:N_VALUES], bos)


def prompts_of(symbols: Symbols, n_keys: int, n: int) -> tuple[Tensor, Tensor]:
    """Return n prompts (n, 2 K or one more) and which value each key has in them (n, K), int64."""
    rng = generator(0, EVAL, "read-out", n_keys, n)
    values = rng.integers(len(symbols.values), size=(n, n_keys))
    order = np.argsort(rng.random((n, n_keys)), axis=1)
    tokens = np.empty((n, 2 * n_keys), dtype=np.int64)
    tokens[:, 0::2] = symbols.keys[order]
    tokens[:, 1::2] = symbols.values[np.take_along_axis(values, order, axis=1)]
    if symbols.bos is not None:
        tokens = np.concatenate((np.full((n, 1), symbols.bos), tokens), axis=1)
    return torch.from_numpy(tokens), torch.from_numpy(values)


def recovered(subject: Subject, symbols: Symbols, n_keys: int) -> dict[str, Row]:
    """Return for each place how many of K pairs its state gives back; standard errors over prompts.

    One sublayer's states are held at a time.
    """
    tokens, values = prompts_of(symbols, n_keys, N_TRAIN + N_TEST)
    n_values, found = len(symbols.values), {}
    for features in _states(subject.model, tokens, subject.layers):
        for place, x in features.items():
            read = read_out(x[:N_TRAIN], values[:N_TRAIN], x[N_TRAIN:], values[N_TRAIN:], n_values)
            row: Row = {"n_keys": n_keys, "n_values": n_values, "n_floats": x.shape[1]}
            row |= cells("recovered", over_documents(item, read.recovered[:, None].numpy()))
            row |= cells("accuracy", over_documents(item, read.hits.mean(1)[:, None].numpy()))
            found[place] = row | {"chance": 1 / n_values, "n": len(read.hits)}
    return found


def _states(
    model: HybridLM, tokens: Tensor, layers: Collection[int] | None
) -> Iterator[dict[str, Tensor]]:
    """Yield for each sublayer with a recurrent state the flattened states (n, F) by place, fp32."""
    for layer in walk(model, tokens.to(device_of(model)), layers):
        if not any(map(forgets, layer.sublayer.branches)):
            continue
        _, state = layer.block(layer.stream, layer.segments, None, True)
        found = matrices_of([None] * layer.index + [state])
        yield {place: matrix.flatten(1).float().cpu() for place, matrix in found.items()}


INSTRUMENT = Instrument(
    name="state-use",
    title="What recurrent states hold: rank, size, pairs that can be read back",
    unit="dimensions",
    source="Roy and Vetterli 2007; Chen et al. 2024 (arXiv 2410.07145); Alain and Bengio 2016",
    why_not=why_not,
    run=run,
)

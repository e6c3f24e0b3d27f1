"""Show packed rows to a person: documents, boundaries, special tokens, loss."""

from pathlib import Path
from typing import Any

import numpy as np

from braidlm.arch.experiment import DataConfig
from braidlm.arch.replay import REPLAY
from braidlm.data.packing import IGNORE, Piece, Row
from braidlm.data.pair_stream import PairStream
from braidlm.data.paraphrase_stream import ParaphraseStream
from braidlm.data.phonebook import PhonebookStream
from braidlm.data.replay import Record, Replayed, Rows, open_rows
from braidlm.data.shards import ShardSet, open_shards
from braidlm.data.streams import AnyStream, BiographyStream, MixedRow, TextStream
from braidlm.data.symbol_items import alphabets_of
from braidlm.data.symbol_stream import SymbolStream
from braidlm.data.symbols import draw_item
from braidlm.data.tokenizer import Tokenizer, load_tokenizer
from braidlm.errors import InputError

KINDS = {
    TextStream: "text",
    PairStream: "pairs",
    ParaphraseStream: "paraphrase",
    PhonebookStream: "phonebook",
    BiographyStream: "biographies",
    Replayed: REPLAY,
}
MASKED = "⟦", "⟧"
"""What stands around the tokens of a pair that are learnt."""


def inspect(
    what: DataConfig | str | Path,
    n: int = 3,
    *,
    seq_len: int | None = None,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    record: Record | None = None,
) -> list[dict[str, Any]]:
    """Return the first `n` training rows, decoded and ready for JSON. Checksums are compared.

    Args:
        what: a declaration, or the path of one shard folder.
        n: rows.
        seq_len: tokens of a row; by default the declared one, for a shard folder 256.
        seed: of the order.
        cache_dir: folder of shard folders; by default the declared one.
        record: of the init, whose rows a declared replay takes.

    Returns:
        A list of {"row", "source", "kind", "n_tokens", "n_targets", "n_padding", "pieces"}. A
        piece is what a row holds of one document: {"document", "start", "stop" (columns),
        "offset" (tokens of the document before it), "document_tokens", "text", "loss"}. Special
        tokens are spelled out in the text; "loss" lists the runs [first, last + 1] of columns
        whose next token is learnt. A pair has "masked" too: its text with the tokens that are
        learnt between ⟦ and ⟧; so has a window of paraphrases, and its texts from left to right as
        "parts": {"role", "document", "start", "stop"}. Generated symbols are written as such: "k3"
        a key, "v7" a value, "_" symbol 0, and "k3->v7" where v7 is asked for. A piece of a replayed
        row (source "replay") has "replayed" too: {"row", "source", "kind"} in the init's training.

    Raises:
        InputError: as `open_rows` and `open_shards`.
    """
    if n < 1:
        raise InputError(f"n = {n} rows must be at least 1")
    if isinstance(what, DataConfig):
        rows = open_rows(what, record, seq_len, seed, cache_dir=cache_dir, verify=True)
        return [_show(i, rows, rows.row(i)) for i in range(n)]
    stream, name = _stream_of(open_shards(what, verify=True), seq_len or 256, seed), Path(what).name
    packed = [stream.row(i) for i in range(n)]
    return [_summary(i, name, stream, row, _pieces(stream, i, row)) for i, row in enumerate(packed)]


def show_tokens(tokens: np.ndarray, tokenizer: Tokenizer) -> str:
    """Return the text of tokens with special tokens spelled out."""
    special, parts, start = tokenizer.special, [], 0
    for at in np.flatnonzero(np.isin(tokens, list(special))).tolist():
        parts += [tokenizer.decode(tokens[start:at]), special[int(tokens[at])]]
        start = at + 1
    return "".join([*parts, tokenizer.decode(tokens[start:])])


def _stream_of(shards: ShardSet, seq_len: int, seed: int) -> TextStream | PairStream:
    saved = shards.meta["tokenizer"]
    tokenizer = load_tokenizer(saved["name"])
    if tokenizer.fingerprint != saved["fingerprint"]:
        raise InputError(f"tokenizer {saved['name']} is not the one that made {shards.folder}")
    kind = PairStream if shards.has_mask else TextStream
    return kind(shards, tokenizer, shards.folder.name, seq_len, seed)


def _show(number: int, rows: Rows, mixed: MixedRow) -> dict[str, Any]:
    name, stream = rows.names[mixed.source], rows.streams[mixed.source]
    if isinstance(stream, Replayed):
        pieces = _replayed_pieces(stream, mixed.number)
    else:
        pieces = _pieces(stream, mixed.number, mixed.row)
    return _summary(number, name, stream, mixed.row, pieces)


def _summary(
    number: int, name: str, stream: AnyStream | Replayed, row: Row, pieces: list[dict[str, Any]]
) -> dict[str, Any]:
    n_tokens = pieces[-1]["stop"] if pieces else 0
    return {
        "row": number,
        "source": name,
        "kind": _kind(stream),
        "n_tokens": n_tokens,
        "n_targets": int((row.targets != IGNORE).sum()),
        "n_padding": len(row.tokens) - n_tokens,
        "pieces": pieces,
    }


def _kind(stream: AnyStream | Replayed) -> str:
    return stream.source.kind if isinstance(stream, SymbolStream) else KINDS[type(stream)]


def _replayed_pieces(again: Replayed, before: int) -> list[dict[str, Any]]:
    """Show what lies side by side in a replayed row, each as it lay in the init's training."""
    pieces, at = [], 0
    for number in again.numbers(before):
        shown = _show(number, again.rows, again.rows.row(number))
        told = {"row": number, "source": shown["source"], "kind": shown["kind"]}
        for piece in shown["pieces"]:
            within = piece.get("replayed", {})  # the init may have replayed it, too
            source = "/".join([told["source"], *([within["source"]] if within else [])])
            replayed = told | within | {"row": number, "source": source}
            pieces.append(_moved(piece | {"replayed": replayed}, at))
        at += shown["n_tokens"]
    return pieces


def _moved(piece: dict[str, Any], by: int) -> dict[str, Any]:
    """Return a piece that lies so many columns further to the right."""
    place = {"start": piece["start"] + by, "stop": piece["stop"] + by}
    moved = {"loss": [[first + by, stop + by] for first, stop in piece["loss"]]}
    if "parts" in piece:
        moved["parts"] = [
            part | {"start": part["start"] + by, "stop": part["stop"] + by}
            for part in piece["parts"]
        ]
    return piece | place | moved


def _pieces(stream: AnyStream, before: int, row: Row) -> list[dict[str, Any]]:
    """Show the documents of a row before which the stream gave `before` rows."""
    pieces, at = [], 0
    for piece in row.pieces:
        stop = at + piece.stop - piece.start
        runs = _runs(row, at, stop)
        if isinstance(stream, PhonebookStream):
            shown = _phonebook_piece(stream, row, piece, at, stop)
        elif isinstance(stream, SymbolStream):
            shown = _symbol_piece(stream, row, piece, at, stop)
        elif isinstance(stream, ParaphraseStream):
            shown = _window_piece(stream, before, row, piece, at, stop)
        else:
            shown = _text_piece(stream, row, piece, at, stop)
        if isinstance(stream, PairStream | ParaphraseStream):
            shown["masked"] = _masked(stream.tokenizer, row, at, stop, runs)
        place = {"start": at, "stop": stop, "offset": piece.start}
        pieces.append(place | shown | {"loss": runs})
        at = stop
    return pieces


def _masked(tokenizer: Tokenizer, row: Row, start: int, stop: int, runs: list[list[int]]) -> str:
    """Return a pair's text with brackets around what is learnt: the tokens after the runs."""
    parts, at = [], start
    for first, last in runs:
        parts += [show_tokens(row.tokens[at : first + 1], tokenizer), MASKED[0]]
        parts += [show_tokens(row.tokens[first + 1 : last + 1], tokenizer), MASKED[1]]
        at = last + 1
    return "".join([*parts, show_tokens(row.tokens[at:stop], tokenizer)])


def _text_piece(
    stream: TextStream | PairStream | BiographyStream, row: Row, piece: Piece, start: int, stop: int
) -> dict:
    split = stream.documents if isinstance(stream, BiographyStream) else stream.shards.train
    return {
        "document": split.ids[piece.document],
        "document_tokens": int(split.lengths[piece.document]),
        "text": show_tokens(row.tokens[start:stop], stream.tokenizer),
    }


def _window_piece(
    stream: ParaphraseStream, before: int, row: Row, piece: Piece, start: int, stop: int
) -> dict:
    return {
        "document": stream.shards.train.ids[piece.document],
        "document_tokens": stop - start,
        "text": show_tokens(row.tokens[start:stop], stream.tokenizer),
        "parts": stream.parts(before, start, stop),
    }


def _symbol_piece(stream: SymbolStream, row: Row, piece: Piece, start: int, stop: int) -> dict:
    alphabets = alphabets_of(stream.source)
    return {
        "document": f"item {piece.document}",
        "document_tokens": stop - start,
        "text": draw_item(row.tokens[start:stop], row.targets[start:stop], alphabets),
    }


def _phonebook_piece(
    stream: PhonebookStream, row: Row, piece: Piece, start: int, stop: int
) -> dict:
    return {
        "document": f"item {piece.document}",
        "document_tokens": stop - start,
        "text": show_tokens(row.tokens[start:stop], stream.tokenizer),
    }


def _runs(row: Row, start: int, stop: int) -> list[list[int]]:
    """Return the runs of columns start..stop-1 that carry loss."""
    learnt = np.concatenate(([False], row.targets[start:stop] != IGNORE, [False]))
    edges = np.flatnonzero(learnt[1:] != learnt[:-1]) + start
    return edges.reshape(-1, 2).tolist()

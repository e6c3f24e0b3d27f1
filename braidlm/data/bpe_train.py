"""Train a byte-level byte-pair tokenizer on text, and say how well it compresses."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from braidlm.arch.sources import TextSource
from braidlm.data.corpora import read_corpus
from braidlm.data.halves import is_held_out
from braidlm.data.tokenizer import ByteTokenizer, JSONTokenizer, Tokenizer, text_pieces
from braidlm.errors import InputError
from braidlm.files import atomic_write

N_BYTES = 256
MAX_VOCAB_SIZE = 1 << 20
END = "<|endoftext|>"
HELD_OUT = 0.05
_BATCH_PIECES = 64
_MAX_HELD_OUT_BYTES = 1 << 24


def train_tokenizer(
    sources: Sequence[TextSource],
    vocab_size: int,
    out: Path,
    *,
    special: Sequence[str] = (END,),
    against: Sequence[Tokenizer] = (),
) -> dict[str, Any]:
    """Train byte-level BPE on text sources and write it as a JSON file of `tokenizers`.

    The text is cut into pieces of about 16 Ki characters at line ends; one piece in twenty,
    chosen by its hash, is not trained on but measured. The same text gives the same file, byte
    for byte. The pre-tokenizer is GPT-2's; the first of `special` closes documents.

    Args:
        sources: what is read, streamed.
        vocab_size: tokens, the 256 bytes and the special ones included.
        out: the JSON file; it is written whole or not at all.
        special: tokens that no text is encoded to, first in the vocabulary.
        against: other tokenizers to measure on the same text.

    Returns:
        {"out", "vocab_size", "trained_bytes", "held_out_bytes", "is_held_out" (False where there
        was too little text to hold out any), "compression": [{"tokenizer", "vocab_size",
        "tokens", "bytes_per_token"}]}; "bytes" is the first row.

    Raises:
        InputError: a vocabulary below what the bytes need or beyond what the text gives, special
            tokens that are empty or the same, text that cannot be read, or a file that is there
            and would come out otherwise.
        OSError: the file cannot be written.
    """
    _check(vocab_size, special)
    if not out.parent.is_dir():
        raise InputError(f"out = {out}: folder {out.parent} does not exist")
    for other in against:
        if not len(other.encode("word")):
            raise InputError(f"tokenizer {other.name} gives no token for a word")
    reader = _Reader(sources)
    inner = _trained(reader.train_batches(), vocab_size, special)
    if not reader.n_trained:
        raise InputError(f"{', '.join(s.path for s in sources)} holds no text to train on")
    if inner.get_vocab_size() < vocab_size:
        raise InputError(
            f"vocab_size = {vocab_size} is more than this text gives: "
            f"{inner.get_vocab_size()} at most"
        )
    data = inner.to_str(pretty=True).encode() + b"\n"
    mine = JSONTokenizer(out, data)
    if out.is_file() and out.read_bytes() != data:
        raise InputError(
            f"out = {out}: another tokenizer is there, which models may need; give a new name"
        )
    held = reader.held_out or reader.first
    atomic_write(out, data)
    return {
        "out": str(out),
        "vocab_size": mine.vocab_size,
        "trained_bytes": reader.n_trained,
        "held_out_bytes": sum(len(piece.encode("utf-8", "replace")) for piece in held),
        "is_held_out": bool(reader.held_out),
        "compression": [_row(t, held) for t in (ByteTokenizer(), mine, *against)],
    }


class _Reader:
    """One pass over the text: most pieces are given to the trainer, a few are kept."""

    def __init__(self, sources: Sequence[TextSource]):
        self._sources = sources
        self.n_trained = self._n_held = 0
        self.held_out: list[str] = []
        self.first: list[str] = []

    def train_batches(self) -> Iterator[list[str]]:
        batch: list[str] = []
        for piece in self._pieces():
            if self._is_kept(piece):
                continue
            self.first = self.first or [piece]
            self.n_trained += len(piece.encode("utf-8", "replace"))
            batch.append(piece)
            if len(batch) == _BATCH_PIECES:
                yield batch
                batch = []
        yield batch

    def _is_kept(self, piece: str) -> bool:
        """Hold a piece out; beyond 16 MiB of them they are left out of both halves."""
        if not is_held_out(piece, HELD_OUT):
            return False
        self._n_held += len(piece)
        if self._n_held <= _MAX_HELD_OUT_BYTES:
            self.held_out.append(piece)
        return True

    def _pieces(self) -> Iterator[str]:
        for source in self._sources:
            for document in read_corpus(source):
                text = document.text.encode("utf-8", "replace").decode("utf-8")
                yield from (piece for piece in text_pieces(text) if piece.strip())


def _trained(batches: Iterator[list[str]], vocab_size: int, special: Sequence[str]) -> Any:
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, pre_tokenizers, trainers

    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(batches, trainer)
    return inner


def _row(tokenizer: Tokenizer, texts: list[str]) -> dict[str, Any]:
    n_tokens = sum(len(ids) for ids in tokenizer.encode_batch(texts))
    n_bytes = sum(len(text.encode("utf-8", "replace")) for text in texts)
    return {
        "tokenizer": tokenizer.name,
        "vocab_size": tokenizer.vocab_size,
        "tokens": n_tokens,
        "bytes_per_token": n_bytes / n_tokens,
    }


def _check(vocab_size: int, special: Sequence[str]) -> None:
    least = N_BYTES + len(special)
    if not least < vocab_size <= MAX_VOCAB_SIZE:
        raise InputError(
            f"vocab_size = {vocab_size} must be more than {least} (the {N_BYTES} bytes and "
            f"{len(special)} special) and at most {MAX_VOCAB_SIZE}"
        )
    for token in special:
        if not token or special.count(token) > 1:
            raise InputError(f"special token '{token}' must not be empty and stand there once")

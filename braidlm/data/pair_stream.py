"""Rows of prompts and answers: whole pairs, loss where their mask says so."""

from functools import lru_cache

import numpy as np

from braidlm.data.packing import IGNORE, Piece, Row, WholePacking
from braidlm.data.seeding import TRAIN, generator
from braidlm.data.shards import LEARNT, PROMPT, ShardSet, Split
from braidlm.data.tokenizer import Tokenizer
from braidlm.errors import InputError


class PairStream:
    """The train half of a source of pairs, packed so that no pair is cut by a row's end.

    The pairs are laid end to end in an order that the seed fixes, and one that does not fit into
    what is left of a row opens the next. Each epoch gives every row once, in another order. A
    token is a target where the pair's mask says that it is learnt:

        tokens    B w h y ? B n o t E     B = bos, E = eos; prompt "why?", answer "not"
        mask      . . . . . 1 1 1 1
        targets   . . . . n o t E .       "." is -100

    A pair longer than a row is handled as `too_long` says: "cut_prompt" takes tokens from the
    left of its prompt (bos and at least one token stay), "drop" leaves it out, "refuse" refuses
    the source.

    Raises:
        InputError: nothing to train on; a pair too long for "refuse", or whose answer alone is.
    """

    def __init__(
        self,
        shards: ShardSet,
        tokenizer: Tokenizer,
        name: str,
        seq_len: int,
        seed: int,
        too_long: str = "cut_prompt",
    ):
        self.tokenizer, self.shards = tokenizer, shards
        self.vocab_size = tokenizer.vocab_size
        self._split, self._name, self._seq_len, self._seed = shards.train, name, seq_len, seed
        long = np.flatnonzero(self._split.lengths > seq_len)
        kept = np.arange(len(self._split))
        if too_long == "drop":
            kept = np.setdiff1d(kept, long)
        self._check(long, kept, too_long)
        self.n_cut = len(long) if too_long == "cut_prompt" else 0
        self.n_dropped = len(long) if too_long == "drop" else 0
        order = kept[generator(seed, TRAIN, name).permutation(len(kept))]
        self._packing = WholePacking(np.minimum(self._split.lengths, seq_len), seq_len, order)
        self.rows_per_epoch = self._packing.n_rows
        self._order = lru_cache(maxsize=2)(self._new_order)

    def row(self, number: int) -> Row:
        """Return a row; row `number` belongs to epoch `number // rows_per_epoch`."""
        epoch, place = divmod(number, self.rows_per_epoch)
        documents = self._packing.documents(int(self._order(epoch)[place])).tolist()
        tokens = np.full(self._seq_len, self.tokenizer.pad_id, dtype=np.int64)
        targets = np.full(self._seq_len, IGNORE, dtype=np.int64)
        pieces, at = [], 0
        for document in documents:
            piece = self._piece(document)
            ids, learnt = self._pair(piece)
            end = at + len(ids)
            tokens[at:end] = ids
            targets[at : end - 1] = np.where(learnt[1:], ids[1:], IGNORE)
            pieces.append(piece)
            at = end
        return Row(tokens, targets, tuple(pieces))

    def unique_tokens(self, n_rows: int) -> int:
        """Return the tokens that rows 0 .. n_rows - 1 show at least once, bos and eos included."""
        rows = self._order(0)[: min(n_rows, self.rows_per_epoch)]
        sizes = np.minimum(self._split.lengths, self._seq_len)
        return sum(int(sizes[self._packing.documents(row)].sum()) for row in rows.tolist())

    def _piece(self, document: int) -> Piece:
        length = int(self._split.lengths[document])
        return Piece(document, max(0, length - self._seq_len), length)

    def _pair(self, piece: Piece) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of a pair and which are learnt; bos stays where the prompt is cut."""
        ids = self._split.read(*piece).astype(np.int64)
        mask = self._split.read_mask(*piece)
        ids[0] = self.tokenizer.bos_id
        return ids, (mask & LEARNT) > 0

    def _new_order(self, epoch: int) -> np.ndarray:
        return generator(self._seed, TRAIN, self._name, epoch).permutation(self.rows_per_epoch)

    def _check(self, long: np.ndarray, kept: np.ndarray, too_long: str) -> None:
        where = f"source '{self._name}'"
        if too_long == "refuse" and len(long):
            raise InputError(
                f"{where}: {len(long)} of {len(self._split)} pairs are longer than seq_len = "
                f"{self._seq_len}, the first is {self._split.ids[long[0]]}: raise seq_len, or set "
                'too_long to "cut_prompt" or "drop"'
            )
        if too_long == "cut_prompt":
            bad = [i for i in long.tolist() if _least(self._split, i) > self._seq_len]
            if bad:
                raise InputError(
                    f"{where}: {len(bad)} answers do not fit into seq_len = {self._seq_len} even "
                    f"without their prompts, the first is {self._split.ids[bad[0]]}: raise "
                    'seq_len, or set too_long = "drop"'
                )
        if len(kept) == 0:
            raise InputError(
                f"{where} has no pair to train on ({len(self._split)} in the train half, held_out "
                f"= {self.shards.meta['held_out']}; {len(long)} longer than seq_len = "
                f"{self._seq_len})"
            )


def _least(split: Split, document: int) -> int:
    """Return the fewest tokens that a pair can be cut to: bos, one of its prompt, its answer."""
    length = int(split.lengths[document])
    n_prompt = int(((split.read_mask(document, 0, length) & PROMPT) > 0).sum())
    return length - max(0, n_prompt - 1)

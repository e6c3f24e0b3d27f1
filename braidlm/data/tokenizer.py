"""Text to token ids and back: the built-in bytes, or any `tokenizers` JSON file."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from braidlm.arch.sources import HUB, RUN
from braidlm.errors import InputError
from braidlm.foreign import is_gguf

_BOS_NAMES = ("<bos>", "<s>", "<|begin_of_text|>", "<|startoftext|>", "[BOS]", "[CLS]")
_EOS_NAMES = ("<|endoftext|>", "<eos>", "</s>", "<|end_of_text|>", "[EOS]", "[SEP]")
_PAD_NAMES = ("<pad>", "<|padding|>", "[PAD]", "<|finetune_right_pad_id|>")
_MAX_PIECE_CHARS = 1 << 14
_GROUP_CHARS = 1 << 19
# Where byte-pair pre-tokenizers always part: after the one line end between visible characters,
# and after a line end that one space and a visible character follow.
_CUT = re.compile(r"(?<=\S\n)(?=\S)|(?<=\n)(?= \S)")
_PROBE = ("word one.\n", "Word two,\n \n\n", " three \n", " (four)\r\n\r\n", " 5\r\n", " 四\n", "x")


class Tokenizer(Protocol):
    """What the rest of the library asks of a tokenizer.

    A text is encoded as it stands: no special token is added, and the spelling of a special
    token inside a text is encoded as ordinary characters.
    """

    @property
    def name(self) -> str:
        """The name that a recipe gives: "bytes", a path, or "hf:NAME"."""
        ...

    @property
    def vocab_size(self) -> int:
        """Ids are in 0 .. vocab_size - 1, special ids included."""
        ...

    @property
    def bos_id(self) -> int:
        """Id that opens every document."""
        ...

    @property
    def eos_id(self) -> int:
        """Id that closes every document."""
        ...

    @property
    def pad_id(self) -> int:
        """Id at positions that belong to no document."""
        ...

    @property
    def fingerprint(self) -> str:
        """A sha256 in hex: equal if and only if every text gets the same ids."""
        ...

    @property
    def special(self) -> dict[int, str]:
        """Spelling of each special id, for display."""
        ...

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of `text`, (n,) int64."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text, the same as `encode` one by one, but faster."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids` without special tokens; never raises."""
        ...


class ByteTokenizer:
    """UTF-8 bytes 0..255, then bos 256, eos 257 and pad 258."""

    name = "bytes"
    vocab_size = 259
    bos_id, eos_id, pad_id = 256, 257, 258
    fingerprint = hashlib.sha256(b"braidlm bytes 1: utf-8, bos 256, eos 257, pad 258").hexdigest()

    @property
    def special(self) -> dict[int, str]:
        """Spelling of each special id, for display."""
        return {256: "<bos>", 257: "<eos>", 258: "<pad>"}

    def encode(self, text: str) -> np.ndarray:
        """Return the UTF-8 bytes of `text`, (n,) int64; a lone surrogate becomes "?"."""
        return np.frombuffer(text.encode("utf-8", "replace"), dtype=np.uint8).astype(np.int64)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text; special ids vanish, ids beyond them and broken UTF-8 become U+FFFD."""
        flat = np.asarray(list(ids), dtype=np.int64).reshape(-1)
        flat = flat[~np.isin(flat, (self.bos_id, self.eos_id, self.pad_id))]
        known = np.where((flat >= 0) & (flat < 256), flat, 0xFF).astype(np.uint8)
        return known.tobytes().decode("utf-8", "replace")


class JSONTokenizer:
    """A tokenizer read from a JSON file of the `tokenizers` library.

    Its own truncation, padding and post-processing are left out: packing owns the boundaries.
    Where the file names only one of bos and eos, that one serves as both; without a pad token
    eos pads.

    Args:
        path: of the file, or the name of what `data` was read from.
        data: the file's content, if it is read already.
        named: spelling of "bos", "eos" and "pad" as a configuration gives them; where it gives
            neither bos nor eos, and without a configuration, well-known spellings are looked for.

    Raises:
        InputError: the file is missing, is not such a file, or has no document token.
    """

    def __init__(
        self, path: str | Path, data: bytes | None = None, named: Mapping[str, str] | None = None
    ):
        self.name = str(path)
        data, self._inner = _load_json(path, data)
        vocab = self._inner.get_vocab(with_added_tokens=True)
        self.vocab_size = 1 + max(vocab.values(), default=-1)
        self.bos_id, self.eos_id, self.pad_id = document_ids(self.name, vocab, named or {})
        # A configuration may give another document token to the same file.
        ids = [self.bos_id, self.eos_id] if named else []
        head = json.dumps(["braidlm tokenizers 1", *ids]) if ids else "braidlm tokenizers 1"
        self.fingerprint = hashlib.sha256(head.encode() + b"\n" + data).hexdigest()
        self._is_cuttable = self._keeps_tokens_when_cut()

    @property
    def special(self) -> dict[int, str]:
        """Spelling of each special id, for display."""
        ids = {self.bos_id, self.eos_id, self.pad_id}
        return {i: self._inner.id_to_token(i) or f"<{i}>" for i in sorted(ids)}

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of `text`, (n,) int64."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text, the same as `encode` one by one, on all cores.

        A text beyond 16 Ki characters is cut at line ends where that changes no token: the
        library takes one core and about 250 bytes a character for each text it is given.
        """
        whole = [_without_surrogates(text) for text in texts]
        return self._encode_pieces([text_pieces(t) if self._is_cuttable else [t] for t in whole])

    def _encode_pieces(self, pieces: list[list[str]]) -> list[np.ndarray]:
        flat = [piece for parts in pieces for piece in parts]
        ids: list[np.ndarray] = []
        for group in _groups(flat):
            try:
                encoded = self._inner.encode_batch_fast(group, add_special_tokens=False)
            except Exception as error:  # a bare one, of a file that contradicts itself
                raise InputError(f"tokenizer {self.name} fails: {error!s:.200}") from None
            ids += [np.asarray(e.ids, dtype=np.int64) for e in encoded]
        following = iter(ids)
        return [np.concatenate([next(following) for _ in parts]) for parts in pieces]

    def _words(self, text: str) -> list[str]:
        """Return the pre-tokens of a text: tokens never cross their edges."""
        normal = self._inner.normalizer
        text = text if normal is None else normal.normalize_str(text)
        return [word for word, _ in self._inner.pre_tokenizer.pre_tokenize_str(text)]

    def _keeps_tokens_when_cut(self) -> bool:
        """Tell whether pieces encode like the whole: not where a text's start is marked."""
        if self._inner.pre_tokenizer is None:
            return False
        return self._words("".join(_PROBE)) == [w for part in _PROBE for w in self._words(part)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text without special tokens; ids outside the vocabulary become U+FFFD."""
        special = {self.bos_id, self.eos_id, self.pad_id}
        runs: list[list[int] | str] = [[]]
        for i in (int(i) for i in ids):
            if not 0 <= i < self.vocab_size:
                runs += ["\ufffd", []]
            elif i not in special:
                runs[-1].append(i)  # type: ignore[union-attr]
        return "".join(
            run if isinstance(run, str) else self._inner.decode(run, skip_special_tokens=True)
            for run in runs
        )


def load_tokenizer(name: str | Path) -> Tokenizer:
    """Return the tokenizer that a recipe names.

    Args:
        name: "bytes", the path of a tokenizers JSON file or of a GGUF file, or "hf:" and a folder
            in the form of the Hugging Face Hub, or a name there.

    Raises:
        InputError: the file is missing, is not such a file, or has no document token; a name
            that leads nowhere.
    """
    if str(name) == "bytes":
        return ByteTokenizer()
    if str(name).startswith(RUN):
        raise InputError(
            f'tokenizer {name} lies in the folder of a run: give "{HUB}" and the path to it there'
        )
    if str(name).startswith(HUB):
        from braidlm.data.hub_tokenizer import load_hub_tokenizer

        return load_hub_tokenizer(str(name))
    if is_gguf(name):
        from braidlm.data.hub_tokenizer import load_gguf_tokenizer

        return load_gguf_tokenizer(name)
    return JSONTokenizer(name)


def document_ids(
    name: str, vocab: Mapping[str, int], named: Mapping[str, str]
) -> tuple[int, int, int]:
    """Return the ids of bos, eos and pad.

    Args:
        name: of the tokenizer, for messages.
        vocab: spelling of each token, and its id.
        named: see `JSONTokenizer`.

    Raises:
        InputError: neither bos nor eos is there.
    """
    bos, eos, pad = (vocab.get(named.get(kind, "")) for kind in ("bos", "eos", "pad"))
    if bos is None and eos is None:
        bos, eos = _first(vocab, _BOS_NAMES), _first(vocab, _EOS_NAMES)
    if bos is None and eos is None:
        raise InputError(
            f"tokenizer {name} has no token that opens or closes a document: "
            f"one of {', '.join(_BOS_NAMES + _EOS_NAMES)} is needed"
        )
    bos = eos if bos is None else bos
    eos = bos if eos is None else eos
    pad = _first(vocab, _PAD_NAMES) if pad is None else pad
    assert bos is not None
    assert eos is not None
    return bos, eos, eos if pad is None else pad


def _load_json(path: str | Path, data: bytes | None):
    from tokenizers import Tokenizer as Inner

    try:
        data = Path(path).read_bytes() if data is None else data
    except OSError as error:
        raise InputError(
            f"tokenizer {path} cannot be read ({error.strerror}): "
            'give "bytes", the path of a tokenizers JSON file, or "hf:NAME"'
        ) from None
    try:
        inner = Inner.from_str(data.decode("utf-8"))
    except BaseException as error:  # the library raises a bare Exception, or panics
        if not _is_of_the_library(error):
            raise
        raise InputError(
            f"tokenizer {path} is not a tokenizers JSON file: {error!s:.200}"
        ) from None
    inner.no_truncation()
    inner.no_padding()
    # A document that merely spells "<|endoftext|>" must not be cut in two.
    inner.encode_special_tokens = True
    return data, inner


def _is_of_the_library(error: BaseException) -> bool:
    """Whether Rust refused something; its panics are no `Exception`, and have no public name."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _first(vocab: Mapping[str, int], names: Iterable[str]) -> int | None:
    return next((vocab[name] for name in names if name in vocab), None)


def _without_surrogates(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def text_pieces(text: str) -> list[str]:
    """Return a text in pieces of about 16 Ki characters.

    A very long one is cut at the first line that may start a piece, again and again.
    """
    pieces, start = [], 0
    while len(text) - start > _MAX_PIECE_CHARS:
        if (found := _CUT.search(text, start + _MAX_PIECE_CHARS)) is None:
            break
        pieces.append(text[start : found.end()])
        start = found.end()
    return [*pieces, text[start:]]


def _groups(pieces: list[str]) -> Iterator[list[str]]:
    """Bound what is in work at a time: the library's own tables dwarf the text."""
    group: list[str] = []
    chars = 0
    for piece in pieces:
        group.append(piece)
        chars += len(piece)
        if chars >= _GROUP_CHARS:
            yield group
            group, chars = [], 0
    if group:
        yield group

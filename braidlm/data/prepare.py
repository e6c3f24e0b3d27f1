"""From a declaration to shards: build what is missing, open what is there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from braidlm.arch.biographies import BiographiesSource
from braidlm.arch.experiment import DataConfig, FileSource
from braidlm.arch.pairs import PairsSource
from braidlm.arch.paraphrase import ParaphraseSource
from braidlm.arch.phonebook import PhonebookSource
from braidlm.arch.symbols import SymbolSource
from braidlm.data.biographies.documents import MemorySplit, documents
from braidlm.data.paraphrase_stream import ParaphraseStream
from braidlm.data.seeding import EVAL, generator
from braidlm.data.shard_build import Progress, build_shards
from braidlm.data.shards import ShardSet, TokenDocument, Verify
from braidlm.data.token_counts import of_pairs, of_texts
from braidlm.data.tokenizer import Tokenizer, load_tokenizer
from braidlm.errors import InputError

MORE = (
    'a .txt file is one document unless the source has documents = "line" or "blank-line", '
    "a .jsonl file has one a line"
)
"""How a corpus has more documents than one."""


def text_source(data: DataConfig, name: str) -> FileSource:
    """Return the source of text, or of pairs, called `name`.

    Raises:
        InputError: there is none.
    """
    sources = [s for s in data.sources if isinstance(s, FileSource)]
    for source in sources:
        if source.name == name:
            return source
    known = ", ".join(s.name for s in sources) or "none is declared"
    raise InputError(f"'{name}' is no text source of this recipe; allowed: {known}")


def open_text(
    data: DataConfig,
    name: str,
    tokenizer: Tokenizer | None = None,
    *,
    cache_dir: str | Path | None = None,
    verify: Verify = False,
    progress: Progress | None = None,
) -> ShardSet:
    """Return the shards of a text source, tokenising it first where they are missing.

    Args:
        data: the declaration.
        name: of the text source.
        tokenizer: the declared one, if it is loaded already.
        cache_dir: folder of shard folders; by default the declared one.
        verify: compare checksums too, see `open_shards`.
        progress: told how far the work is.

    Raises:
        InputError: as `load_tokenizer`, `read_corpus` and `open_shards`.
        OSError: the folder cannot be written.
    """
    source = text_source(data, name)
    return build_shards(
        source,
        tokenizer or load_tokenizer(data.tokenizer),
        data.cache_dir if cache_dir is None else cache_dir,
        held_out=data.held_out,
        verify=verify,
        progress=progress,
    )


def held_out_documents(
    data: DataConfig,
    name: str,
    *,
    tokenizer: Tokenizer | None = None,
    limit: int | None = None,
    seed: int = 0,
    cache_dir: str | Path | None = None,
) -> Iterator[TokenDocument]:
    """Yield held-out documents of a text source, in an order that `seed` fixes.

    Args:
        data: the declaration.
        name: of the text source.
        tokenizer: the declared one, if it is loaded already.
        limit: documents at most.
        seed: of the order, so that the first few are a fair sample of a sorted corpus.
        cache_dir: folder of shard folders; by default the declared one.

    Raises:
        InputError: as `open_text`, or the held-out part is empty.
    """
    shards = open_text(data, name, tokenizer, cache_dir=cache_dir)
    check_held_out(shards, name)
    shards.verify("held_out")
    split = shards.held_out
    order = generator(seed, EVAL, name).permutation(len(split))
    return split.documents(order[:limit])


def check_held_out(shards: ShardSet, name: str) -> None:
    """Refuse a text source that has nothing to be evaluated on.

    Raises:
        InputError: the held-out part is empty.
    """
    if len(shards.held_out) == 0:
        raise InputError(
            f"source '{name}' has no held-out document (held_out = {shards.meta['held_out']}): "
            f"raise held_out, or cut {shards.meta['source']['path']} into more documents ({MORE})"
        )


def build(
    data: DataConfig,
    out: str | Path | None = None,
    *,
    verify: Verify = True,
    progress: Progress | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Tokenise every text source of a declaration; return what is there, ready for JSON.

    Args:
        data: the declaration.
        out: folder of shard folders; by default the declared `cache_dir`.
        verify: compare the checksums of shards that exist already, see `open_shards`.
        progress: told (documents, bytes) while a source is tokenised.
        seed: of the order, which decides which paraphrases come first.

    Returns:
        {"out", "tokenizer", "held_out", "sources": [{"name", "kind", ...}]}; a text source has
        "path", "folder", "fingerprint", "empty_documents", "build_sec" and for "train" and
        "held_out" the counts of documents, tokens and bytes, and "epoch": the tokens of one epoch
        of training rows, {"input" (read), "loss" (learnt), "unique" (different)}; a source of pairs
        also "too_long": {"pairs" (of the train half), "of", "seq_len", "policy"}; one of
        paraphrases "windows", see `ParaphraseStream.summary`.

    Raises:
        InputError: see `open_text` and `ParaphraseStream`.
        OSError: the folder cannot be written.
    """
    folder = Path(data.cache_dir if out is None else out)
    if folder.is_file():
        raise InputError(f"{folder} is a file; the shards need a folder")
    # A recipe of generated symbols alone names a tokenizer that nothing reads.
    has_text = any(not isinstance(s, SymbolSource) for s in data.sources)
    tokenizer = load_tokenizer(data.tokenizer) if has_text else None
    sources = []
    for source in data.sources:
        if isinstance(source, SymbolSource):
            sources.append({"name": source.name, "kind": source.kind, "length": source.length})
            continue
        if isinstance(source, PhonebookSource):
            lengths = list(source.lengths)
            sources.append({"name": source.name, "kind": "phonebook", "lengths": lengths})
            continue
        if isinstance(source, BiographiesSource):
            assert tokenizer is not None
            told = MemorySplit(documents(source), tokenizer)
            sources.append(source.model_dump(exclude={"weight"}) | {"train": told.counts})
            continue
        shards = open_text(
            data, source.name, tokenizer, cache_dir=folder, verify=verify, progress=progress
        )
        card = {"name": source.name, "kind": source.kind} | _describe(shards)
        if isinstance(source, PairsSource):
            card["too_long"] = _too_long(shards, source, data.seq_len)
            counts = of_pairs(shards, data.seq_len, source.too_long)
        elif isinstance(source, ParaphraseSource):
            assert tokenizer is not None
            stream = ParaphraseStream(shards, tokenizer, source, data.seq_len, seed)
            card["windows"] = stream.summary()
            counts = stream.counts(stream.rows_per_epoch)
        else:
            counts = of_texts(shards)
        sources.append(card | {"epoch": counts._asdict()})
    return {
        "out": str(folder),
        "tokenizer": None if tokenizer is None else _tokenizer_card(tokenizer),
        "held_out": data.held_out,
        "sources": sources,
    }


def _describe(shards: ShardSet) -> dict[str, Any]:
    return {
        "path": shards.meta["source"]["path"],
        "files": shards.meta["source"]["files"],
        "folder": str(shards.folder),
        "fingerprint": shards.meta["source"]["fingerprint"],
        "empty_documents": shards.meta["empty_documents"],
        "build_sec": shards.meta["wall_sec"],
        **shards.summary(),
    }


def _too_long(shards: ShardSet, source: PairsSource, seq_len: int) -> dict[str, Any]:
    n_long = int((shards.train.lengths > seq_len).sum())
    return {"pairs": n_long, "of": len(shards.train), "seq_len": seq_len, "policy": source.too_long}


def _tokenizer_card(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "name": tokenizer.name,
        "vocab_size": tokenizer.vocab_size,
        "fingerprint": tokenizer.fingerprint,
        "bos": [tokenizer.bos_id, tokenizer.special[tokenizer.bos_id]],
        "eos": [tokenizer.eos_id, tokenizer.special[tokenizer.eos_id]],
    }

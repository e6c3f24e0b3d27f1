"""Small corpora and tokenizers that the tests of this room share."""

import json
from pathlib import Path

import pytest

from braidlm.arch.sources import TextSource

REAL_DATA = Path(__file__).parents[2] / "../shared/data"

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "Größe", "東京", "🦊"]


def source_of(path, **fields) -> TextSource:
    """The text source of a path."""
    return TextSource(path=str(path), **fields)


def make_text(number: int, n_words: int) -> str:
    """A text that no other number gives."""
    words = [WORDS[(number * 7 + 3 * i * i) % len(WORDS)] for i in range(n_words)]
    return f"Document {number}.\n" + " ".join(words)


def write_jsonl(path: Path, texts: list[str], field: str = "text") -> Path:
    lines = (json.dumps({field: text}, ensure_ascii=False) for text in texts)
    path.write_bytes("".join(line + "\n" for line in lines).encode())
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """120 documents of 1 to 60 words."""
    return write_jsonl(tmp_path / "corpus.jsonl", [make_text(i, 1 + i % 60) for i in range(120)])


@pytest.fixture(scope="session")
def bpe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE tokenizer of 400 tokens with one document token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([make_text(i, 40) for i in range(50)], trainer)
    tokenizer.enable_truncation(5)
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    tokenizer.save(str(path))
    return path

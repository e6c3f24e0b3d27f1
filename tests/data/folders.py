"""Folders of paraphrases, written by hand and in memory."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from braidlm.arch.experiment import DataConfig
from braidlm.arch.paraphrase import ParaphraseSource
from braidlm.data.paraphrase_stream import ParaphraseStream
from braidlm.data.shards import LEARNT, PROMPT, UNIT_END
from braidlm.data.streams import RowMixture
from braidlm.data.tokenizer import ByteTokenizer
from braidlm.data.units import unit_marks

T = ByteTokenizer()
ARMS = [
    *((layout, second) for layout in ("after", "before", "far") for second in ("paraphrase",)),
    *((layout, "partial") for layout in ("after", "far")),
    *((layout, "repeat") for layout in ("after", "far")),
    *((layout, "unrelated") for layout in ("after", "before", "far")),
    ("plain", "paraphrase"),
    ("separate", "paraphrase"),
]
"""(layout, second) of every arm that a study may have."""


def text_of(number: int) -> str:
    """A text of three sentences that no other number gives."""
    word = hashlib.sha256(str(number).encode()).hexdigest()
    return f"Item {number} is {word[:4]}. It has {word[4 : 8 + number % 5]}. End of {word[9:12]}."


def pairs_of(n_texts: int, most: int = 3) -> list[tuple[str, str, str]]:
    """(id, text, paraphrase): texts have 1 to `most` paraphrases."""
    return [
        (f"book/{i}#{j}", text_of(i), f"Number {i}.{j}: say {text_of(i)[5:20]}. So it ends. Yes.")
        for i in range(n_texts)
        for j in range(1 + i % most)
    ]


def write_folder(path: Path, pairs: list[tuple[str, str, str]]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    lines = [{"id": i, "text": t, "paraphrase": p, "scores": {}} for i, t, p in pairs]
    (path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def declared(folder: Path, seq_len: int = 512, held_out: float = 0.0, **fields: Any) -> DataConfig:
    fields = {"length": 256, "gap_documents": 1, "part": 0.5, "loss": "second"} | fields
    return DataConfig.of(
        {
            "seq_len": seq_len,
            "held_out": held_out,
            "cache_dir": str(folder.parent / "shards"),
            "sources": [{"kind": "paraphrase", "path": str(folder), **fields}],
        }
    )


def stream_of(data: DataConfig, seed: int = 0) -> ParaphraseStream:
    [stream] = RowMixture(data, seed=seed).streams
    assert isinstance(stream, ParaphraseStream)
    return stream


class InMemory:
    """What `Split` is, of pairs that were never written."""

    def __init__(self, pairs: list[tuple[str, str, str]]):
        self.ids = [name for name, _, _ in pairs]
        self._tokens, self._masks = [], []
        for _, text, paraphrase in pairs:
            parts = [T.encode(text), T.encode(paraphrase)]
            marks = [
                unit_marks(t, ids, T) for t, ids in zip((text, paraphrase), parts, strict=True)
            ]
            mask = np.repeat(np.array([PROMPT, LEARNT], np.uint8), [len(part) for part in parts])
            mask |= UNIT_END * np.concatenate(marks).astype(np.uint8)
            self._tokens.append(np.concatenate(([T.bos_id], *parts, [T.eos_id])))
            self._masks.append(np.concatenate(([0], mask, [LEARNT])).astype(np.uint8))
        self.lengths = np.array([len(tokens) for tokens in self._tokens])

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, pair: int, start: int, stop: int) -> np.ndarray:
        return self._tokens[pair][start:stop]

    def read_mask(self, pair: int, start: int, stop: int) -> np.ndarray:
        return self._masks[pair][start:stop]


def in_memory(
    pairs: list[tuple[str, str, str]], seq_len: int, seed: int = 0, **fields: Any
) -> ParaphraseStream:
    source = ParaphraseSource.of({"path": "none", **fields})
    shards = SimpleNamespace(train=InMemory(pairs), meta={"held_out": 0.0})
    return ParaphraseStream(cast(Any, shards), T, source, seq_len, seed)

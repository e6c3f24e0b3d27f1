import json

import pytest

from braidlm.arch.experiment import DataConfig, MQARSource, TextSource
from braidlm.data.inspection import inspect
from braidlm.data.prepare import build
from braidlm.data.streams import RowMixture, TextStream
from braidlm.errors import InputError

from .conftest import write_jsonl


@pytest.fixture
def data(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["hi", "yo", "a much longer text", "é"])
    return DataConfig(
        seq_len=16, sources=(TextSource(path=str(path)),), held_out=0, cache_dir=str(tmp_path / "s")
    )


def test_a_text_row_shows_boundaries_and_loss(data):
    rows = inspect(data, n=2)
    assert json.loads(json.dumps(rows)) == rows
    assert [r["n_tokens"] + r["n_padding"] for r in rows] == [16, 16]
    assert sum(r["n_tokens"] for r in rows) == 4 + 4 + 20 + 4
    parts = sorted((p["document"], p["offset"], p["text"]) for r in rows for p in r["pieces"])
    whole = {name: "".join(t for n, _, t in parts if n == name) for name, _, _ in parts}
    assert whole["a.jsonl:1"] == "<bos>hi<eos>"
    assert whole["a.jsonl:2"] == "<bos>yo<eos>"
    assert whole["a.jsonl:3"] == "<bos>a much longer text<eos>"
    assert whole["a.jsonl:4"] == "<bos>é<eos>"
    for row in rows:
        assert sum(b - a for p in row["pieces"] for a, b in p["loss"]) == row["n_targets"]
        for p in row["pieces"]:
            last = p["stop"] - int(p["text"].endswith("<eos>"))
            assert p["loss"] == ([[p["start"], last]] if last > p["start"] else [])


def test_a_shard_folder_is_shown_too(data):
    folder = build(data)["sources"][0]["folder"]
    rows = inspect(folder, n=1, seq_len=64)
    assert rows[0]["n_padding"] == 64 - 32
    assert {p["document"] for p in rows[0]["pieces"]} == {f"a.jsonl:{i}" for i in (1, 2, 3, 4)}
    assert {p["document_tokens"] for p in rows[0]["pieces"]} == {4, 20}


def test_inspect_compares_checksums(data):
    [stream] = RowMixture(data).streams
    assert isinstance(stream, TextStream)
    path = stream.shards.folder / "train-00000.bin"
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(InputError, match="was altered"):
        inspect(data)


def test_recall_is_shown_in_symbols():
    source = MQARSource(
        vocab_size=16, n_pairs=(2,), length=10, token_offset=5, random_non_queries=False
    )
    [row] = inspect(DataConfig(seq_len=24, sources=(source,)), n=1)
    assert row["n_padding"] == 4
    assert row["n_targets"] == 4
    for piece in row["pieces"]:
        words = piece["text"].split()
        known = dict(zip(words[0:4:2], words[1:4:2], strict=True))
        asked = [w.split("->") for w in words[4:] if w != "_"]
        assert dict(asked) == known
        assert len(piece["loss"]) == 2 or piece["loss"][0][1] - piece["loss"][0][0] == 2
    with pytest.raises(InputError, match="n = 0"):
        inspect(DataConfig(sources=(source,), seq_len=24), n=0)

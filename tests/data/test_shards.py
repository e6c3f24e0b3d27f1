import json
import shutil

import numpy as np
import pytest

from braidlm.data import building, shard_build
from braidlm.data.corpora import read_corpus
from braidlm.data.halves import is_held_out
from braidlm.data.shard_build import build_shards, shard_key
from braidlm.data.shards import SPLITS, open_shards
from braidlm.data.tokenizer import ByteTokenizer, load_tokenizer
from braidlm.errors import InputError

from .conftest import make_text, source_of, write_jsonl

T = ByteTokenizer()


def stored(shards):
    return {
        split: [(d.id, d.tokens.tolist(), d.n_bytes) for d in getattr(shards, split).documents()]
        for split in ("train", "held_out")
    }


@pytest.mark.parametrize("limit", [1, 700, 1 << 27])
@pytest.mark.parametrize("name", ["bytes", "bpe"])
def test_what_is_stored_is_the_corpus(corpus, tmp_path, bpe_file, name, limit):
    t = load_tokenizer(bpe_file if name == "bpe" else name)
    shards = build_shards(
        source_of(corpus), t, tmp_path / "s", held_out=0.3, max_shard_tokens=limit
    )
    wanted = {"train": [], "held_out": []}
    for document in read_corpus(source_of(corpus)):
        side = "held_out" if is_held_out(document.text, 0.3) else "train"
        tokens = [t.bos_id, *t.encode(document.text).tolist(), t.eos_id]
        wanted[side].append((document.id, tokens, len(document.text.encode())))
    assert stored(shards) == wanted
    assert len(wanted["held_out"]) > 20
    for split, documents in wanted.items():
        count = shards.summary()[split]
        assert count["documents"] == len(documents)
        assert count["tokens"] == sum(len(tokens) for _, tokens, _ in documents)
        assert count["bytes"] == sum(n for _, _, n in documents)
    n_shards = len(shards.meta["splits"]["train"]["shards"])
    assert n_shards == len(wanted["train"]) if limit == 1 else n_shards >= (limit == 700) * 2


def test_the_dtype_follows_the_vocabulary(corpus, tmp_path, monkeypatch):
    small = build_shards(source_of(corpus), T, tmp_path / "a")
    assert small.meta["dtype"] == "uint16"
    big = ByteTokenizer()
    monkeypatch.setattr(big, "vocab_size", 70_000, raising=False)
    monkeypatch.setattr(big, "bos_id", 69_998, raising=False)
    large = build_shards(source_of(corpus), big, tmp_path / "b")
    assert large.meta["dtype"] == "uint32"
    assert int(large.train.read(0, 0, 1)[0]) == 69_998


def test_a_second_build_reads_the_first(corpus, tmp_path, monkeypatch):
    first = build_shards(source_of(corpus), T, tmp_path / "s", held_out=0.1)
    monkeypatch.setattr(shard_build, "read_documents", lambda *a: pytest.fail("tokenised again"))
    second = build_shards(source_of(corpus), T, tmp_path / "s", held_out=0.1, verify=True)
    assert second.folder == first.folder
    assert stored(second) == stored(first)


def test_the_key_changes_with_everything_that_matters(corpus, bpe_file):
    keys = [shard_key(source_of(corpus), T, 0.1), shard_key(source_of(corpus), T, 0.2)]
    keys += [
        shard_key(source_of(corpus, field="body"), T, 0.1),
        shard_key(source_of(corpus), load_tokenizer(bpe_file), 0.1),
    ]
    assert shard_key(source_of(corpus), T, 0.1) == keys[0]
    write_jsonl(corpus, ["other"])
    keys.append(shard_key(source_of(corpus), T, 0.1))
    assert len(set(keys)) == 5


def test_held_out_is_disjoint_and_duplicates_stay_together(tmp_path):
    texts = [make_text(i % 200, 5) for i in range(400)]
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    sides = stored(build_shards(source_of(path), T, tmp_path / "s", held_out=0.25))
    train, held = ({tuple(tokens) for _, tokens, _ in sides[s]} for s in ("train", "held_out"))
    assert not train & held
    assert len(train) + len(held) == 200
    assert 30 <= len(held) <= 70
    assert len(sides["train"]) == 2 * len(train)


def test_a_larger_fraction_keeps_what_was_held_out():
    texts = [make_text(i, 5) for i in range(300)]
    small, large = ({t for t in texts if is_held_out(t, f)} for f in (0.1, 0.4))
    assert small < large
    assert not any(is_held_out(t, 0.0) for t in texts)


def test_empty_documents_are_skipped_and_counted(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["", "a", " \n\t", "\u00e9", ""])
    shards = build_shards(source_of(path), T, tmp_path / "s")
    assert shards.meta["empty_documents"] == 3
    assert stored(shards)["train"] == [
        ("a.jsonl:2", [256, 97, 257], 1),
        ("a.jsonl:4", [256, 0xC3, 0xA9, 257], 2),
    ]


@pytest.mark.parametrize("texts", [[], ["", "  "]])
def test_an_empty_corpus_is_an_input_error(tmp_path, texts):
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    with pytest.raises(InputError, match=rf"a\.jsonl holds no text \({len(texts)} empty"):
        build_shards(source_of(path), T, tmp_path / "s")
    assert list((tmp_path / "s").iterdir()) == []


def test_windows_line_ends_and_unicode_are_kept(tmp_path):
    whole = "one\r\ntwo\u2028three\u0000 🦊\r"
    (tmp_path / "a.txt").write_bytes(whole.encode())
    [(_, tokens, n_bytes)] = stored(build_shards(source_of(tmp_path / "a.txt"), T, tmp_path / "s"))[
        "train"
    ]
    assert T.decode(tokens) == whole
    assert n_bytes == len(whole.encode())


def test_a_lone_surrogate_is_stored_as_a_question_mark(tmp_path, bpe_file):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b"}\n')
    for t in (T, load_tokenizer(bpe_file)):
        [(_, tokens, n_bytes)] = stored(
            build_shards(source_of(tmp_path / "a.jsonl"), t, tmp_path / "s")
        )["train"]
        assert t.decode(tokens) == "a?b"
        assert n_bytes == 3


def test_a_build_that_dies_leaves_nothing_to_read(corpus, tmp_path, monkeypatch):
    def die(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shard_build, "write_json", die)
        with pytest.raises(OSError, match="No space left"):
            build_shards(source_of(corpus), T, tmp_path / "s")
    assert list((tmp_path / "s").iterdir()) == []


def test_the_first_of_two_builders_wins(corpus, tmp_path, monkeypatch):
    real = building._publish

    def late(temporary, folder):
        shutil.copytree(temporary, folder)
        real(temporary, folder)

    monkeypatch.setattr(building, "_publish", late)
    shards = build_shards(source_of(corpus), T, tmp_path / "s", verify=True)
    assert len(shards.train) == 120
    assert [p.name for p in (tmp_path / "s").iterdir()] == [shards.folder.name]


@pytest.mark.parametrize("suffix", ["bin", "idx", "bytes", "ids"])
def test_a_truncated_shard_is_found_at_once(corpus, tmp_path, suffix):
    folder = build_shards(source_of(corpus), T, tmp_path / "s").folder
    path = folder / f"train-00000.{suffix}"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(InputError, match=rf"train-00000\.{suffix} has \d+ bytes, not \d+"):
        open_shards(folder)
    path.unlink()
    with pytest.raises(InputError, match=rf"train-00000\.{suffix} cannot be read"):
        build_shards(source_of(corpus), T, tmp_path / "s")


@pytest.mark.parametrize("suffix", ["bin", "idx", "bytes", "ids"])
def test_an_altered_shard_is_found_by_its_checksum(corpus, tmp_path, suffix):
    folder = build_shards(source_of(corpus), T, tmp_path / "s").folder
    open_shards(folder, verify=True)
    path = folder / f"train-00000.{suffix}"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"train-00000\.{suffix} was altered"):
        open_shards(folder, verify=True)


def test_offsets_that_cannot_be_are_found_without_checksums(corpus, tmp_path):
    folder = build_shards(source_of(corpus), T, tmp_path / "s").folder
    path = folder / "train-00000.idx"
    offsets = np.fromfile(path, dtype="<i8")
    offsets[5] = offsets[-1] + 1
    offsets.tofile(path)
    with pytest.raises(InputError, match=r"train-00000\.idx was altered"):
        open_shards(folder)


def test_folders_that_are_no_shards(corpus, tmp_path, bpe_file):
    with pytest.raises(InputError, match="nothing does not exist"):
        open_shards(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"meta\.json is missing"):
        open_shards(tmp_path)
    folder = build_shards(source_of(corpus), T, tmp_path / "s").folder
    with pytest.raises(InputError, match=r"made by another tokenizer \(bytes\)"):
        open_shards(folder, fingerprint=load_tokenizer(bpe_file).fingerprint)
    meta = json.loads((folder / "meta.json").read_text())
    for broken, message in (
        (meta | {"format": 99}, "must have format 2"),
        ({k: v for k, v in meta.items() if k != "files"}, "lacks files"),
        (meta | {"held_out": 0.5}, r"meta\.json was altered"),
        (meta | {"splits": dict.fromkeys(SPLITS, meta["splits"]["train"])}, "was altered"),
    ):
        (folder / "meta.json").write_text(json.dumps(broken))
        with pytest.raises(InputError, match=message):
            open_shards(folder)


def test_progress_is_told(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_build, "_BATCH_DOCUMENTS", 50)
    told = []
    shards = build_shards(
        source_of(corpus), T, tmp_path / "s", progress=lambda d, b: told.append((d, b))
    )
    assert [d for d, _ in told] == [50, 100, 120]
    assert told[-1][1] == shards.summary()["train"]["bytes"]

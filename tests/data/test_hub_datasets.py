import json
import sys
import types

import pytest

from braidlm.arch.experiment import DataConfig
from braidlm.arch.pairs import PairsSource
from braidlm.data import hub
from braidlm.data.corpora import read_corpus
from braidlm.data.prepare import build, open_text
from braidlm.data.shard_build import build_shards
from braidlm.data.tokenizer import ByteTokenizer
from braidlm.errors import InputError

from .conftest import make_text, source_of, write_jsonl

T = ByteTokenizer()
TEXTS = [make_text(i, 5 + i % 9) for i in range(40)]
COMMIT = "5" * 40


class Rows(list):
    """What `load_dataset` gives, as far as it is used."""

    def __init__(self, rows, breaks_at=None):
        super().__init__(rows)
        self.column_names = list(rows[0])
        self.breaks_at = breaks_at

    def select_columns(self, columns):
        rows = [{c: row[c] for c in columns} for row in super().__iter__()]
        return Rows(rows, self.breaks_at)

    def __iter__(self):
        for i, row in enumerate(super().__iter__()):
            if i == self.breaks_at:
                raise ConnectionError("Connection reset by peer")
            yield row


@pytest.fixture
def fake(monkeypatch):
    """A hub with one data set; `calls` lists what was asked of it."""
    rows = [{"text": t, "image": b"x"} for t in TEXTS]
    state = types.SimpleNamespace(calls=[], rows=Rows(rows), commit=COMMIT)

    def load_dataset(path, **how):
        state.calls.append((path, how["name"], how["split"], how["revision"], how["streaming"]))
        if how["split"] == "nope":
            raise ValueError("Bad split: nope. Available splits: ['train']")
        return state.rows

    def repo_info(self, name, **how):
        state.calls.append((name, how["repo_type"], how["revision"]))
        return types.SimpleNamespace(sha=state.commit)

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", repo_info)
    return state


def stored(shards):
    return [(d.id, T.decode(d.tokens)) for d in shards.train.documents()]


def test_a_data_set_is_streamed_into_shards_at_its_commit(fake, tmp_path):
    source = source_of("hf:me/set", config="small", split="train[:40]")
    shards = build_shards(source, T, tmp_path)
    assert stored(shards) == [(f"set:{i + 1}", text) for i, text in enumerate(TEXTS)]
    assert fake.calls == [
        ("me/set", "dataset", None),
        ("me/set", "small", "train[:40]", COMMIT, True),
    ]
    assert shards.folder.name.startswith("set-")
    described = shards.meta["source"]
    assert (described["revision"], described["config"]) == (COMMIT, "small")
    # When the shards are there, nobody is asked; another declaration is another folder.
    assert build_shards(source, T, tmp_path).folder == shards.folder
    assert len(fake.calls) == 2
    for fields in ({"config": "large"}, {"split": "test"}, {"revision": "v2"}):
        other = source_of("hf:me/set", **({"config": "small", "split": "train[:40]"} | fields))
        assert build_shards(other, T, tmp_path).folder != shards.folder
    assert fake.calls[-2] == ("me/set", "dataset", "v2")


def test_the_commit_is_a_part_of_the_fingerprint(fake, tmp_path):
    prints = set()
    for commit in ("1" * 40, "2" * 40, "1" * 40):
        fake.commit = commit
        shards = build_shards(source_of("hf:set"), T, tmp_path / str(len(fake.calls)))
        prints.add(shards.meta["source"]["fingerprint"])
    assert len(prints) == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"split": "nope"}, r"'hf:me/set' \(config '', split 'nope'\) cannot be read: Bad split"),
        ({"field": "body"}, r"'hf:me/set', row 1 has no field \"body\" \(fields: text, image\)"),
        ({"field": "image"}, "'hf:me/set', row 1: field \"image\" must be text, not bytes"),
    ],
)
def test_what_a_data_set_does_not_have_is_named(fake, tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        build_shards(source_of("hf:me/set", **fields), T, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_connection_that_breaks_leaves_nothing_half_built(fake, tmp_path):
    fake.rows.breaks_at = 30
    with pytest.raises(InputError, match="'hf:me/set', row 31 cannot be read: Connection reset"):
        build_shards(source_of("hf:me/set"), T, tmp_path)
    assert list(tmp_path.iterdir()) == []
    fake.rows.breaks_at = None
    assert len(build_shards(source_of("hf:me/set"), T, tmp_path).train) == 40


def test_offline_gives_one_sentence(fake, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", refuse)
    with pytest.raises(InputError, match="'hf:wikitext' cannot be read from the Hugging Face Hub"):
        build_shards(source_of("hf:wikitext"), T, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_the_extra_is_named(fake, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"needs the package 'datasets'.*braidlm\[hf\]"):
        build_shards(source_of("hf:me/set"), T, tmp_path)


@pytest.fixture
def folder(tmp_path):
    """A local folder with two splits, and a third column."""
    pytest.importorskip("datasets")
    (tmp_path / "set").mkdir()
    lines = (json.dumps({"text": t, "n": i, "q": f"q{i}"}) for i, t in enumerate(TEXTS))
    (tmp_path / "set" / "train.jsonl").write_text("\n".join(lines))
    write_jsonl(tmp_path / "set" / "test.jsonl", ["only one"])
    return tmp_path / "set"


def test_a_local_folder_is_read_by_the_real_library(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "commit_of", lambda *_: pytest.fail("the hub was asked"))
    source = source_of(f"hf:{folder}")
    shards = build_shards(source, T, tmp_path / "s")
    assert stored(shards) == [(f"set:{i + 1}", text) for i, text in enumerate(TEXTS)]
    assert [d.text for d in read_corpus(source_of(f"hf:{folder}", split="test"))] == ["only one"]
    write_jsonl(folder / "train.jsonl", ["other", "texts"])
    assert len(build_shards(source, T, tmp_path / "s").train) == 2


def test_pairs_come_from_a_data_set_too(folder, tmp_path):
    source = PairsSource(path=f"hf:{folder}", prompt="q", answer="text")
    data = DataConfig(sources=(source,), held_out=0, cache_dir=str(tmp_path / "s"), seq_len=512)
    assert build(data)["sources"][0]["train"]["documents"] == 40
    [first, *_] = open_text(data, "pairs").train.documents()
    assert T.decode(first.tokens) == "q0" + TEXTS[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"split": "nope"}, "split 'nope'\\) cannot be read: Bad split: nope"),
        ({"config": "zzz"}, "config 'zzz', split 'train'\\) cannot be read: BuilderConfig 'zzz'"),
        ({"revision": "v2"}, "revision = 'v2': 'hf:.*' is a local folder"),
        ({"field": "body"}, 'row 1 has no field "body" \\(fields: text, n, q\\)'),
    ],
)
def test_the_real_librarys_refusals_are_one_sentence(folder, tmp_path, fields, message):
    with pytest.raises(InputError, match=message) as error:
        build_shards(source_of(f"hf:{folder}", **fields), T, tmp_path / "s")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "s").iterdir()) == []


def test_a_damaged_local_file_is_one_sentence(folder, tmp_path):
    (folder / "train.jsonl").write_bytes(b'{"text": "x"}\n{"text": \xff')
    with pytest.raises(InputError, match=r"'hf:.*' .*cannot be read") as error:
        build_shards(source_of(f"hf:{folder}"), T, tmp_path / "s")
    assert "\n" not in str(error.value)

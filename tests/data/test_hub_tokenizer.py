import json
import shutil
import sys
import types

import numpy as np
import pytest

from braidlm.data import hub
from braidlm.data.hub_tokenizer import SlowTokenizer
from braidlm.data.tokenizer import JSONTokenizer, load_tokenizer
from braidlm.errors import InputError

from .conftest import REAL_DATA


@pytest.fixture
def folder(tmp_path, bpe_file):
    """A folder with tokenizer.json; its one document token is <|endoftext|>."""
    shutil.copy(bpe_file, tmp_path / "tokenizer.json")
    return tmp_path


@pytest.mark.parametrize("form", ["text", "object"])
@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
def test_the_configuration_names_the_document_tokens(folder, form, file):
    spelled = {"bos_token": "the", "eos_token": "Ġfox", "pad_token": "Ġdog"}
    if form == "object":
        spelled = {k: {"content": v, "lstrip": False} for k, v in spelled.items()}
    data = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    wanted = [data.get(s) for s in ("the", "Ġfox", "Ġdog")]
    assert None not in wanted
    (folder / file).write_text(json.dumps(spelled))
    t = load_tokenizer(f"hf:{folder}")
    assert [t.bos_id, t.eos_id, t.pad_id] == wanted
    assert list(t.special.values()) == [t.special[i] for i in sorted(wanted)]


def test_two_files_of_names_complete_each_other(folder):
    (folder / "special_tokens_map.json").write_text('{"bos_token": "the", "eos_token": "the"}')
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    t = load_tokenizer(f"hf:{folder}")
    assert list(t.special.values()) == ["<|endoftext|>", "the"]
    assert (t.bos_id, t.eos_id) == tuple(sorted(t.special, reverse=True))


def test_without_names_the_usual_spellings_are_looked_for(folder, bpe_file):
    plain = JSONTokenizer(bpe_file)
    for config in (None, {}, {"bos_token": None}, {"eos_token": "<|endoftext|>"}):
        if config is not None:
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
        t = load_tokenizer(f"hf:{folder}")
        assert t.name == f"hf:{folder}"
        assert t.bos_id == t.eos_id == t.pad_id == plain.eos_id
        np.testing.assert_array_equal(t.encode("the fox"), plain.encode("the fox"))


def test_another_document_token_is_another_tokenizer(folder):
    prints = set()
    for eos in ("the", "Ġfox", "the"):
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
        prints.add(load_tokenizer(f"hf:{folder}").fingerprint)
    assert len(prints) == 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "the folder holds none"),
        ({"tokenizer.json": b"{}"}, "is not a tokenizers JSON file"),
        ({"tokenizer.json": None, "tokenizer_config.json": b"[]"}, "must be a JSON object"),
        ({"tokenizer.json": None, "tokenizer_config.json": b"{"}, "is not readable as JSON"),
    ],
)
def test_folders_that_are_no_tokenizer(tmp_path, bpe_file, files, message):
    folder = tmp_path / "t"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(bpe_file.read_bytes() if content is None else content)
    with pytest.raises(InputError, match=message) as error:
        load_tokenizer(f"hf:{folder}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["no such name", "a/b/c", "", "../x"])
def test_what_is_neither_folder_nor_name_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"'hf:{name}' is neither a folder that exists nor a name"):
        load_tokenizer(f"hf:{name}")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No hub, and nothing fetched from it before."""
    import huggingface_hub

    def refuse(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", refuse)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)


def test_offline_a_name_gives_one_sentence(offline):
    says = r"'hf:gpt2' cannot be read from the Hugging Face Hub: Name or service not known \("
    with pytest.raises(InputError, match=says):
        load_tokenizer("hf:gpt2")


def test_an_unknown_name_is_said_to_be_unknown(offline, monkeypatch):
    import huggingface_hub

    gone = type("RepositoryNotFoundError", (Exception,), {})

    def refuse(*_, **__):
        raise gone("404 Client Error. (Request ID: x)\n\nRepository Not Found")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", refuse)
    with pytest.raises(InputError, match=r"'hf:me/it' cannot .*: there is none of this name"):
        load_tokenizer("hf:me/it")


def test_a_name_is_fetched_once_at_the_commit_of_its_revision(folder, monkeypatch):
    import huggingface_hub

    (folder / "tokenizer_config.json").write_text("{}")
    asked, fetched = [], []

    def repo_info(self, name, **how):
        asked.append((name, how["revision"], how["repo_type"]))
        return types.SimpleNamespace(sha="c" * 40)

    def snapshot_download(name, revision=None, local_files_only=False, **_):
        if local_files_only and not fetched:
            raise FileNotFoundError
        if not local_files_only:
            fetched.append((name, revision))
        return str(folder)

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", repo_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    first = load_tokenizer("hf:me/it@v1")
    assert (asked, fetched) == ([("me/it", "v1", "model")], [("me/it", "c" * 40)])
    assert load_tokenizer("hf:me/it@v1").fingerprint == first.fingerprint
    assert len(asked) == len(fetched) == 1
    assert hub.commit_of("model", "me/it", "a" * 40) == "a" * 40  # without asking
    assert len(asked) == 1


def test_without_transformers_other_forms_name_the_extra(tmp_path, monkeypatch):
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"needs the package 'transformers'.*braidlm\[hf\]"):
        load_tokenizer(f"hf:{tmp_path}")


@pytest.mark.slow
def test_a_tokenizer_that_only_transformers_can_run(tmp_path):
    from transformers import ByT5Tokenizer

    ByT5Tokenizer().save_pretrained(tmp_path)
    t = load_tokenizer(f"hf:{tmp_path}")
    assert isinstance(t, SlowTokenizer)
    assert (t.bos_id, t.eos_id, t.pad_id) == (1, 1, 0)
    text = "Größe</s> 東京 🦊\n"
    [ids] = t.encode_batch([text])
    assert ids.tolist() == [b + 3 for b in text.encode()]
    assert t.decode([1, *ids, 1, 0]) == text
    assert t.decode([10**6, *t.encode("x"), -1]) == "\ufffdx\ufffd"
    assert t.special == {0: "<pad>", 1: "</s>"}
    assert t.encode("a\ud800b").tolist() == t.encode("a?b").tolist()
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"holds no tokenizer\.json, and nothing else"):
        load_tokenizer(f"hf:{tmp_path / 'x'}")


@pytest.mark.slow
@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real corpora are not here")
def test_gpt2_as_transformers_saves_it_and_as_its_old_files(tmp_path):
    from transformers import GPT2TokenizerFast  # pyright: ignore[reportAttributeAccessIssue]

    files = REAL_DATA / "tokenizers/gpt2"
    made = GPT2TokenizerFast(str(files / "vocab.json"), str(files / "merges.txt"))
    made.save_pretrained(tmp_path / "new")
    (tmp_path / "old").mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(files / name, tmp_path / "old")
    (tmp_path / "old" / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    text = "Hello, world!  def f(x):\n    return 1\n\n\nGröße"
    for folder in ("new", "old"):
        t = load_tokenizer(f"hf:{tmp_path / folder}")
        assert (t.vocab_size, t.bos_id, t.eos_id) == (50257, 50256, 50256)
        assert t.encode(text).tolist() == made(text)["input_ids"]
        assert t.decode(t.encode(text)) == text

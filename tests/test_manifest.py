"""A manifest tells every change of a checkpoint's files, and of itself."""

import json
from pathlib import Path

import pytest
from torch import nn

from braidlm import checkpoint
from braidlm.errors import InputError
from braidlm.manifest import is_complete, verify


def save(path: Path) -> Path:
    state = {"step": 4, "random": [1, None, "x"]}
    return checkpoint.save(path, nn.Linear(4, 6), recipe={"name": "a"}, step=4, train_state=state)


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json", "train_state.pt"])
def test_damage_is_named(tmp_path, name):
    path = save(tmp_path / "a")
    file = path / name
    data = file.read_bytes()
    middle = len(data) // 2
    file.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    with pytest.raises(InputError, match=rf"{name} is corrupt"):
        verify(path)
    file.write_bytes(data[:-1])
    with pytest.raises(
        InputError, match=rf"{name} has {len(data) - 1} bytes instead of {len(data)}"
    ):
        verify(path)
    file.unlink()
    with pytest.raises(InputError, match=rf"{name} is missing"):
        verify(path)
    assert not is_complete(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "not a complete checkpoint: manifest.json is missing"),
        ("{", "not readable as JSON"),
        ("[]", "not a checkpoint's manifest"),
        ('{"files": {}, "format_version": 9}', "format_version = 9; this version reads 1"),
        ('{"files": {}, "format_version": 1}', "lacks the step"),
        ('{"files": {"a": {}}, "format_version": 1, "step": 2}', "the size and sum of a file"),
        ('{"files": {"a": 5}, "format_version": 1, "step": 2}', "the size and sum of a file"),
        ('{"files": {}, "format_version": 1, "step": 2}', "weights.safetensors is missing"),
    ],
)
def test_a_broken_manifest_is_named(tmp_path, text, words):
    path = save(tmp_path / "a")
    (path / "manifest.json").unlink()
    if text is not None:
        (path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=words):
        verify(path)


@pytest.mark.parametrize("field", ["step", "code_version", "written_at", "more"])
def test_no_part_of_a_manifest_changes_unseen(tmp_path, field):
    file = save(tmp_path / "a") / "manifest.json"
    whole = json.loads(file.read_text())
    file.write_text(json.dumps(whole, indent=7))  # another spelling is no change
    verify(tmp_path / "a")
    file.write_text(json.dumps(whole | {field: 7}))
    with pytest.raises(InputError, match=r"manifest\.json was altered"):
        verify(tmp_path / "a")
    del whole["sha256"]  # as earlier versions wrote it
    file.write_text(json.dumps(whole))
    verify(tmp_path / "a")

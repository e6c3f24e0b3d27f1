"""A checkpoint is whole or absent, and says what is wrong with it."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from braidlm import checkpoint
from braidlm.arch import Recipe
from braidlm.errors import InputError
from braidlm.manifest import verify
from braidlm.model import HybridLM

CONFIG = {"name": "tiny", "seed": 1}
STATE = {"step": 4, "optimizer": {"a": {"exp_avg": torch.arange(3.0)}}, "random": [1, None, "x"]}


class Net(nn.Module):
    """Two layers; the second is tied to the first when asked for."""

    def __init__(self, width: int = 4, *, is_tied: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Linear(width, 6, bias=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 6, bias=False)
        if is_tied:
            self.head.weight = self.embedding.weight
        self.register_buffer("table", torch.arange(3))


def save(path: Path, model: nn.Module | None = None, step: int = 4) -> Path:
    model = Net() if model is None else model
    return checkpoint.save(path, model, recipe=CONFIG, step=step, train_state=STATE)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_weights_config_and_state_come_back(tmp_path):
    model = Net()
    path = save(tmp_path / "a", model)
    other = Net()
    checkpoint.load_weights(path, other)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert json.loads((path / "config.json").read_text()) == CONFIG
    state = checkpoint.load_train_state(path)
    assert torch.equal(state["optimizer"]["a"]["exp_avg"], torch.arange(3.0))
    assert state["random"] == [1, None, "x"]
    assert verify(path)["step"] == 4


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path):
    path = save(tmp_path / "a")
    assert set(load_file(path / "weights.safetensors")) == {
        "embedding.weight",
        "norm.weight",
        "norm.bias",
        "table",
    }
    model = Net()
    checkpoint.load_weights(path, model)
    assert model.head.weight is model.embedding.weight
    with pytest.raises(InputError, match=r"'head.weight' of shape \(6, 4\) is missing"):
        checkpoint.load_weights(path, Net(is_tied=False))
    untied = save(tmp_path / "b", Net(is_tied=False))
    with pytest.raises(InputError, match=r"'head.weight' of shape \(6, 4\) is unexpected"):
        checkpoint.load_weights(untied, Net())


def test_weights_of_another_spec_name_the_first_tensor_and_change_nothing(tmp_path):
    path = save(tmp_path / "a")
    model = Net(5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    words = r"another spec: 'embedding.weight' has shape \(6, 4\), expected \(6, 5\)"
    with pytest.raises(InputError, match=words):
        checkpoint.load_weights(path, model)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_files_that_are_no_weights_or_no_state_are_input_errors(tmp_path):
    path = save(tmp_path / "a")
    (path / "weights.safetensors").write_bytes(b"not tensors")
    (path / "train_state.pt").write_bytes(b"not a state")
    with pytest.raises(InputError, match="not readable as safetensors"):
        checkpoint.load_weights(path, Net())
    with pytest.raises(InputError, match="not readable as a training state"):
        checkpoint.load_train_state(path)
    bare = checkpoint.save(tmp_path / "b", Net(), recipe=CONFIG)
    with pytest.raises(InputError, match=r"cannot be resumed: train_state.pt is missing"):
        checkpoint.load_train_state(bare)


def test_a_state_with_code_in_it_is_refused(tmp_path):
    path = save(tmp_path / "a")
    torch.save({"optimizer": Net()}, path / "train_state.pt")
    with pytest.raises(InputError, match="not readable as a training state"):
        checkpoint.load_train_state(path)


@pytest.mark.parametrize("stage", ["write_held", "write_torch", "write_manifest", "_put_in_place"])
def test_a_write_that_breaks_off_leaves_the_earlier_checkpoint(tmp_path, monkeypatch, stage):
    first = save(tmp_path / "checkpoints" / "step-00000001")
    before = contents(tmp_path)

    def kill(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, stage, kill)
    for target in ("step-00000001", "step-00000002"):
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path / "checkpoints" / target)
        assert contents(tmp_path) == before
    assert checkpoint.latest(tmp_path) == first
    verify(first)


def test_the_leftovers_of_a_killed_write_are_never_a_checkpoint_and_go(tmp_path):
    first = save(checkpoint.checkpoint_path(tmp_path, 1))
    # What kill -9 leaves: a complete-looking folder that has not got its name yet.
    os.rename(
        save(checkpoint.checkpoint_path(tmp_path, 2)), first.with_name(".step-00000002.77.tmp")
    )
    assert checkpoint.checkpoints(tmp_path) == [first]
    checkpoint.rotate(tmp_path, 3)
    assert [p.name for p in first.parent.iterdir()] == ["step-00000001"]


def test_the_second_rename_may_fail_and_the_old_one_is_back(tmp_path, monkeypatch):
    path = save(tmp_path / "a")
    before = contents(tmp_path)
    rename, calls = os.rename, []

    def fail_second(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        rename(*arguments)

    monkeypatch.setattr(checkpoint.os, "rename", fail_second)
    with pytest.raises(OSError, match="Input/output"):
        save(path, Net())
    assert contents(tmp_path) == before


def test_saving_again_replaces(tmp_path):
    path = save(tmp_path / "a", step=1)
    model = Net()
    save(path, model, step=2)
    assert verify(path)["step"] == 2
    assert torch.equal(load_file(path / "weights.safetensors")["norm.weight"], model.norm.weight)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("size_kib", [12, 120, 200])
def test_a_full_disk_is_an_os_error_and_leaves_the_rest(tmp_path, size_kib):
    # 64 KiB of weights and 64 KiB of state: it fills in the first, in the second, and not at all.
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        (disk / "earlier").write_text("here")
        state = {"exp_avg": torch.zeros(16 * 1024)}
        model = nn.Linear(128, 128, bias=False)
        if size_kib == 200:
            checkpoint.save(disk / "a", model, recipe=CONFIG, train_state=state)
            verify(disk / "a")
            return
        with pytest.raises(OSError, match="No space left") as caught:
            checkpoint.save(disk / "a", model, recipe=CONFIG, train_state=state)
        assert caught.value.errno == 28
        assert contents(disk) == {"earlier": b"here"}
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_read_only_folder_is_an_os_error(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        with pytest.raises(OSError, match="Read-only"):
            save(disk / "a")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_rotation_keeps_the_newest_complete_ones(tmp_path):
    for step in (5, 100, 20, 3):
        save(checkpoint.checkpoint_path(tmp_path, step))
    # The newest is damaged: the newest complete one must stay, even if one alone is kept.
    (checkpoint.checkpoint_path(tmp_path, 100) / "weights.safetensors").unlink()
    checkpoint.rotate(tmp_path, 2)
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == [
        "step-00000005",
        "step-00000020",
        "step-00000100",
    ]
    checkpoint.rotate(tmp_path, 0)
    assert [int(p.name[5:]) for p in checkpoint.checkpoints(tmp_path)] == [20, 100]
    assert checkpoint.latest(tmp_path).name == "step-00000100"


def test_steps_beyond_eight_digits_are_ordered_by_number(tmp_path):
    save(checkpoint.checkpoint_path(tmp_path, 99_999_999))
    newest = save(checkpoint.checkpoint_path(tmp_path, 100_000_000))
    assert checkpoint.latest(tmp_path) == newest


RECIPE = {
    "name": "tiny",
    "model": {"pattern": "M-*-", "d_model": 32, "vocab_size": 40},
    "data": {"sources": [{"kind": "mqar", "vocab_size": 32}]},
}


def hybrid(tmp_path: Path) -> tuple[HybridLM, Recipe]:
    recipe = Recipe.from_dict(RECIPE)
    model = HybridLM(recipe.spec)
    path = checkpoint.checkpoint_path(tmp_path, 7)
    checkpoint.save(path, model, recipe=recipe.to_dict(), step=7)
    return model, recipe


def test_a_model_is_loaded_from_its_run_or_its_checkpoint(tmp_path):
    model, recipe = hybrid(tmp_path)
    tokens = torch.randint(40, (2, 9))
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    for path in (tmp_path, checkpoint.latest(tmp_path)):
        loaded, found = checkpoint.load_model(path)
        assert found == recipe
        assert not loaded.training
        assert torch.equal(loaded(tokens).hidden, model(tokens).hidden)
        assert loaded.lm_head.weight is loaded.embedding.weight
    assert torch.equal(torch.rand(2), expected)


def test_a_narrow_cast_leaves_the_recurrence_in_fp32_and_the_answer_close(tmp_path):
    model, _ = hybrid(tmp_path)
    half, _ = checkpoint.load_model(tmp_path, dtype=torch.bfloat16)
    narrow = {n for n, p in half.named_parameters() if p.dtype == torch.bfloat16}
    kept = {n for n, p in half.named_parameters() if p.dtype == torch.float32}
    assert {name.rpartition(".")[2] for name in kept} == {"A_log", "D", "dt_bias"}
    assert "embedding.weight" in narrow
    assert half.lm_head.weight is half.embedding.weight
    tokens = torch.randint(40, (2, 9))
    hidden, expected = half(tokens).hidden, model(tokens).hidden
    assert hidden.dtype == torch.bfloat16
    assert ((hidden - expected).norm() / expected.norm()).item() < 0.03
    double, _ = checkpoint.load_model(tmp_path, dtype=torch.float64)
    assert {p.dtype for p in double.parameters()} == {torch.float64}


def test_load_model_says_what_is_missing(tmp_path):
    with pytest.raises(InputError, match="nothing is neither a run nor a checkpoint"):
        checkpoint.load_model(tmp_path / "nothing")
    with pytest.raises(InputError, match="has no checkpoint"):
        checkpoint.load_model(tmp_path)
    hybrid(tmp_path)
    config = checkpoint.latest(tmp_path) / "config.json"
    config.write_text(config.read_text().replace('"M-*-"', '"M-M-"'))
    with pytest.raises(InputError, match=r"config.json is corrupt"):
        checkpoint.load_model(tmp_path)

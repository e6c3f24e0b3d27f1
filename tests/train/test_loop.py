import contextlib
import errno
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from braidlm import checkpoint
from braidlm.arch import Recipe
from braidlm.errors import InputError
from braidlm.manifest import verify
from braidlm.runs import Run
from braidlm.tensors import write_torch
from braidlm.train import NonFiniteLossError, build_model, train
from braidlm.train.schedule import learning_rate

from .tiny import BreakingMixture, TinyLM, TinyMixture, recipe, run

CLOCKED = ("tokens_per_sec", "wall_sec")


def rows(path: Path) -> list[dict]:
    return [
        {key: value for key, value in row.items() if key not in CLOCKED}
        for row in Run.open(path).metrics()
    ]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.latest(path) / "weights.safetensors")


def assert_same_run(one: Path, other: Path) -> None:
    """Every logged number, every weight and every moment of the optimizer has the same bits."""
    assert rows(one) == rows(other)
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name
    states = [checkpoint.load_train_state(checkpoint.latest(p))["optimizer"] for p in (one, other)]
    for name, state in states[0].items():
        for key, tensor in state.items():
            assert torch.equal(tensor, states[1][name][key]), (name, key)


def stop_at(step: int) -> BreakingMixture:
    """Ask for a stop while the batch of the 0-based `step` is made: that update still happens."""
    return BreakingMixture(step, lambda: signal.raise_signal(signal.SIGTERM))


def test_a_run_learns_and_says_what_it_did(tmp_path):
    summary = run(tmp_path, recipe(steps=40, log_every=10, checkpoint_every=15))
    assert (summary.state, summary.step, summary.tokens) == ("done", 40, 40 * 20)
    logged = Run.open(tmp_path).metrics()
    assert [row["step"] for row in logged] == [1, 10, 20, 30, 40]
    assert logged[-1]["loss"] == summary.loss
    assert logged[-1]["loss"] < logged[0]["loss"] / 2
    assert logged[2]["tokens"] == 20 * 20
    assert logged[2]["sources"] == {"a": 60, "b": 20}
    assert logged[2]["lr"] == learning_rate(20, recipe(steps=40).train)
    assert all(row["tokens_per_sec"] > 0 for row in logged)
    assert logged[-1]["wall_sec"] == pytest.approx(summary.wall_sec, abs=1.0)
    # checkpoints after 15, 30 and 40; two are kept
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == ["step-00000030", "step-00000040"]
    status = Run.open(tmp_path).status()
    assert (status["state"], status["step"], status["error"]) == ("done", 40, None)
    env = Run.open(tmp_path).env
    assert (env["threads"], env["device"], env["precision"]) == (1, "cpu", "fp32, as asked")


def test_the_logged_loss_and_norm_are_those_of_the_batch(tmp_path):
    run(tmp_path, recipe(steps=1))
    model, batch = TinyLM(), TinyMixture().batch(0)
    loss = model.loss(batch.tokens, batch.targets, batch.segments)
    loss.backward()
    norm = math.sqrt(sum(float(g.square().sum()) for g in model.gradients().values()))
    (row,) = rows(tmp_path)
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert row["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert norm > 1  # so that clipping had something to do


def test_clipping_bounds_the_update_and_zero_leaves_it(tmp_path):
    seen = {}
    for limit in (0.0, 0.01, 1e9):
        # With a huge epsilon Adam's first update is proportional to the gradient.
        config = recipe(steps=1, grad_clip=limit, adam_eps=1e6, lr=1e6, weight_decay=0.0)
        run(tmp_path / str(limit), config)
        start = {n: p.detach() for n, p in TinyLM().named_parameters()}
        after = weights(tmp_path / str(limit))
        seen[limit] = math.sqrt(sum(float((after[n] - p).square().sum()) for n, p in start.items()))
    assert seen[0.0] == seen[1e9]
    assert seen[0.01] == pytest.approx(
        seen[0.0] * 0.01 / rows(tmp_path / "0.0")[0]["grad_norm"], rel=1e-3
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stopped_and_resumed_is_the_same_bit_by_bit(tmp_path, precision):
    config = recipe(precision=precision, micro_batch_size=2)
    run(tmp_path / "whole", config)
    summary = run(tmp_path / "parts", config, mixture=stop_at(3))
    assert (summary.state, summary.step) == ("interrupted", 4)
    assert Run.open(tmp_path / "parts").status()["state"] == "interrupted"
    summary = run(tmp_path / "parts", config, resume=True)
    assert (summary.state, summary.step, summary.tokens) == ("done", 8, 8 * 20)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def real_recipe(precision: str) -> Recipe:
    return Recipe.from_dict(
        {
            "seed": 3,
            "model": {"pattern": "M-{M*}-", "d_model": 32, "vocab_size": 32},
            "data": {
                "seq_len": 24,
                "sources": [{"kind": "mqar", "vocab_size": 32, "n_pairs": [2], "length": 12}],
            },
            "train": {
                "steps": 6,
                "batch_size": 4,
                "micro_batch_size": 2,
                "log_every": 1,
                "device": "cpu",
                "precision": precision,
            },
        }
    )


class Stopping:
    """The recipe's own batches, and a signal with one of them."""

    def __init__(self, config: Recipe, at: int) -> None:
        from braidlm.train.loop import build_mixture

        self.inner, self.at = build_mixture(config), at
        self.unique_tokens = self.inner.unique_tokens

    def batch(self, step: int):
        if step == self.at:
            signal.raise_signal(signal.SIGINT)
        return self.inner.batch(step)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_real_hybrid_resumes_bit_by_bit(tmp_path, precision):
    config = real_recipe(precision)
    train(config, tmp_path / "whole")
    assert train(config, tmp_path / "parts", mixture=Stopping(config, 2)).step == 3
    train(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert len(rows(tmp_path / "whole")) == 6


def test_initial_weights_follow_from_the_seed(tmp_path):
    config = real_recipe("fp32")
    torch.manual_seed(1)
    first = build_model(config).state_dict()
    torch.manual_seed(2)
    second = build_model(config).state_dict()
    other = build_model(config.model_copy(update={"seed": 4})).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])


def test_resuming_a_finished_run_does_nothing_and_more_steps_go_on(tmp_path):
    done = run(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    again = run(tmp_path, resume=True)
    assert (again.state, again.step, again.loss) == ("done", 8, done.loss)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    longer = run(tmp_path, recipe(steps=12), resume=True)
    assert (longer.state, longer.step) == ("done", 12)
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, 13))
    assert Run.open(tmp_path).config["train"]["steps"] == 12
    with pytest.raises(InputError, match=r"train\.steps = 8: must be at least 12"):
        run(tmp_path, recipe(steps=8), resume=True)
    assert Run.open(tmp_path).config["train"]["steps"] == 12
    assert Run.open(tmp_path).status()["state"] == "done"
    assert len(Run.open(tmp_path).env["earlier"]) == 2


def test_resume_without_a_run_starts_one_and_without_resume_a_run_is_not_touched(tmp_path):
    run(tmp_path / "a", resume=True)
    before = (tmp_path / "a" / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match="is not empty"):
        run(tmp_path / "a")
    with pytest.raises(InputError, match=r"train\.lr = 0\.1"):
        run(tmp_path / "a", recipe(lr=0.1), resume=True)
    with Run.open(tmp_path / "a").lock(), pytest.raises(InputError, match="is in use"):
        run(tmp_path / "a", recipe(steps=20), resume=True)
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == before
    assert Run.open(tmp_path / "a").config["train"]["steps"] == 8


def test_a_second_process_is_refused_before_it_reads_or_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("braidlm.train.loop.build_mixture", lambda *_: pytest.fail("read"))
    with Run(tmp_path).lock(), pytest.raises(InputError, match="is in use"):
        train(recipe(), tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("is_alive", [True, False])
def test_a_run_that_began_while_we_read_the_data_is_not_touched(tmp_path, monkeypatch, is_alive):
    out = tmp_path / "a"
    with contextlib.ExitStack() as other:

        def meanwhile(config, record):
            run(out)
            if is_alive:
                other.enter_context(Run(out).lock())
            return TinyMixture()

        monkeypatch.setattr("braidlm.train.loop.build_mixture", meanwhile)
        with pytest.raises(InputError, match="is in use" if is_alive else "is not empty"):
            train(recipe(lr=0.1), out, model=TinyLM())
    assert Run.open(out).config["train"]["lr"] == 0.05
    assert Run.open(out).metrics()[-1]["step"] == 8


def test_rows_after_the_checkpoint_are_logged_once(tmp_path):
    config = recipe(checkpoint_every=3)

    def crash():
        raise RuntimeError("the machine burns")

    with pytest.raises(RuntimeError, match="burns"):
        run(tmp_path / "parts", config, mixture=BreakingMixture(5, crash))
    assert [row["step"] for row in rows(tmp_path / "parts")] == [1, 2, 3, 4, 5]
    status = Run.open(tmp_path / "parts").status()
    assert (status["state"], status["step"]) == ("failed", 5)
    assert status["error"] == "RuntimeError: the machine burns"
    run(tmp_path / "parts", config, resume=True)
    run(tmp_path / "whole", config)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_settings_and_random_state_of_the_caller_return(tmp_path):
    model = TinyLM()
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    seen = []

    def look():
        seen.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))

    config = recipe(steps=1, threads=2, deterministic=True)
    run(tmp_path, config, model=model, mixture=BreakingMixture(0, look))
    assert seen == [(2, True)]
    assert torch.get_num_threads() == 1
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.rand(3), expected)
    assert Run.open(tmp_path).env["threads"] == 2


class Poisoned(TinyMixture):
    """From one step on, the first token's loss is not a number."""

    def __init__(self, model: TinyLM, at: int) -> None:
        super().__init__()
        self.model, self.at = model, at

    def batch(self, step: int):
        if step == self.at:
            self.model.scale.fill_(float("nan"))
        return super().batch(step)


def test_a_loss_that_is_not_a_number_stops_before_the_update(tmp_path):
    model = TinyLM()
    with pytest.raises(NonFiniteLossError, match=r"step 6: loss = nan.*failed_batch\.pt") as caught:
        run(tmp_path / "a", model=model, mixture=Poisoned(model, 5))
    assert (caught.value.step, caught.value.file) == (6, tmp_path / "a" / "failed_batch.pt")
    reference = TinyLM()
    run(tmp_path / "b", recipe(), model=reference, mixture=stop_at(4))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, dict(reference.named_parameters())[name]), name
    saved = torch.load(caught.value.file, weights_only=True)
    expected = TinyMixture().batch(5)
    assert torch.equal(saved["tokens"], expected.tokens)
    assert torch.equal(saved["targets"], expected.targets)
    assert expected.segments is not None
    assert torch.equal(saved["doc"], expected.segments.doc)
    status = Run.open(tmp_path / "a").status()
    assert (status["state"], status["step"]) == ("failed", 5)
    assert "step 6" in status["error"]
    assert [row["step"] for row in rows(tmp_path / "a")] == [1, 2, 3, 4, 5]


class Recorder:
    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def start(self, name: str, step: int, steps: int) -> None:
        self.calls.append(("start", name, step, steps))

    def update(self, step: int, loss: float, n_tokens: int) -> None:
        self.calls.append((step, loss, n_tokens))

    def close(self, state: str) -> None:
        self.calls.append(("close", state))


def test_progress_hears_of_every_update(tmp_path):
    progress = Recorder()
    run(tmp_path, progress=progress, mixture=stop_at(2))
    assert progress.calls[0] == ("start", "tiny", 0, 8)
    assert [call[0] for call in progress.calls[1:-1]] == [1, 2, 3]
    assert [call[1] for call in progress.calls[1:-1]] == [row["loss"] for row in rows(tmp_path)]
    assert {call[2] for call in progress.calls[1:-1]} == {20}
    assert progress.calls[-1] == ("close", "interrupted")
    broken = Recorder()
    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "b", progress=broken, mixture=BreakingMixture(0, lambda: 1 / 0))
    assert broken.calls[-1] == ("close", "failed")


def child(out: Path, mode: str, precision: str) -> subprocess.Popen:
    tests = Path(__file__).parent.parent
    code = (
        "import runpy, sys; sys.argv[0] = ''; runpy.run_module('train.tiny', run_name='__main__')"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(out), mode, precision],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tests,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_is_ended_goes_on_bit_by_bit(tmp_path, number):
    with child(tmp_path / "parts", "", "bf16") as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 7:
            pass
        process.send_signal(number)
        rest = process.stdout.read().split()
    if number == signal.SIGTERM:
        assert process.returncode == 0
        assert rest[-2] == "interrupted"
        assert checkpoint.latest(tmp_path / "parts").name == f"step-{int(rest[-1]):08d}"
    else:
        assert process.returncode == -signal.SIGKILL
        assert checkpoint.latest(tmp_path / "parts").name == "step-00000006"
    assert Run.open(tmp_path / "parts").status()["state"] == "interrupted"
    config = recipe(steps=20, precision="bf16", checkpoint_every=3)
    run(tmp_path / "parts", config, resume=True)
    run(tmp_path / "whole", config)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_speed_is_told_without_the_time_of_writing(tmp_path, monkeypatch):
    save = checkpoint.save

    def slow(*arguments, **named):
        time.sleep(0.3)
        return save(*arguments, **named)

    monkeypatch.setattr(checkpoint, "save", slow)
    run(tmp_path, recipe(checkpoint_every=3))
    assert min(row["tokens_per_sec"] for row in Run.open(tmp_path).metrics()) > 20 / 0.3


def test_a_disk_that_fills_up_ends_the_run_and_the_earlier_checkpoint_goes_on(
    tmp_path, monkeypatch
):
    config = recipe(checkpoint_every=3, keep_checkpoints=1)
    write, calls = write_torch, []

    def fill(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_torch", fill)
        with pytest.raises(OSError, match="No space left"):
            run(tmp_path / "parts", config)
    assert "No space left" in Run.open(tmp_path / "parts").status()["error"]
    assert verify(checkpoint.latest(tmp_path / "parts"))["step"] == 3
    run(tmp_path / "parts", config, resume=True)
    run(tmp_path / "whole", config)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_damaged_newest_checkpoint_is_named_and_its_removal_helps(tmp_path):
    config = recipe(checkpoint_every=3)
    run(tmp_path / "whole", config)
    run(tmp_path / "parts", config)
    newest = checkpoint.latest(tmp_path / "parts")
    with open(newest / "weights.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    with pytest.raises(InputError, match=r"step-00000008/weights\.safetensors is corrupt.*delete"):
        run(tmp_path / "parts", config, resume=True)
    assert len(rows(tmp_path / "parts")) == 8
    shutil.rmtree(newest)
    assert run(tmp_path / "parts", config, resume=True).step == 8
    assert_same_run(tmp_path / "whole", tmp_path / "parts")

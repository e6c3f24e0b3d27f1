"""What a training takes over from the run that it begins with: rate, optimizer, how it ended."""

import json
import shutil

import pytest
import torch

from braidlm import checkpoint, interop
from braidlm.arch import Recipe
from braidlm.arch.experiment import TrainConfig
from braidlm.errors import InputError
from braidlm.files import read_json
from braidlm.train import train
from braidlm.train.schedule import learning_rate
from braidlm.train.start import INIT, ORIGIN, open_start

from .test_loop import Stopping, assert_same_run, real_recipe, rows


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A run of six updates, cosine from 1e-3 to 1e-4; do not write in it."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    train(real_recipe("fp32"), folder)
    return folder


def continued(init, steps=6, **fields) -> Recipe:
    plain = real_recipe("fp32").to_dict() | {"name": "more", "seed": 5, "init": str(init)}
    plain["train"] |= {"steps": steps} | fields
    return Recipe.from_dict(plain)


def test_warm_up_begins_at_a_given_rate_and_reaches_the_peak():
    config = TrainConfig(steps=10, lr=1.0, warmup_steps=4, schedule="trapezoid")
    assert [learning_rate(u, config, 0.2) for u in range(1, 6)] == pytest.approx(
        [0.4, 0.6, 0.8, 1.0, 1.0]
    )
    # One that ended higher comes down, and a run shorter than its warm-up stays in it.
    assert learning_rate(1, config, 3.0) == pytest.approx(2.5)
    short = config.model_copy(update={"steps": 2, "anneal_fraction": 0.5, "anneal_lr_ratio": 0.0})
    assert learning_rate(1, short, 0.2) == pytest.approx(0.4)
    assert learning_rate(2, short, 0.2) == 0.0


def test_the_origin_says_how_the_init_ended(pretrained, tmp_path):
    train(continued(pretrained, steps=1), tmp_path / "run")
    ended = read_json(tmp_path / "run" / INIT / ORIGIN)["ended_with"]
    last = rows(pretrained)[-1]
    assert ended == {
        "step": 6,
        "steps": 6,
        "lr": pytest.approx(1e-4),
        "loss": last["loss"],
        "optimizer": "adamw",
    }
    assert ended["lr"] == last["lr"]
    # What it began with is the same weights, however they are named.
    assert open_start(str(tmp_path / "run" / INIT)).origin["ended_with"] == ended


def test_the_rate_rises_from_where_the_init_ended(pretrained, tmp_path):
    config = continued(pretrained, steps=5, warmup_steps=3, warmup_from="init")
    train(config, tmp_path / "run")
    first = rows(pretrained)[-1]["lr"]
    rates = [row["lr"] for row in rows(tmp_path / "run")]
    assert rates[:3] == pytest.approx([first + (1e-3 - first) * u / 3 for u in (1, 2, 3)])
    assert rates[-1] == pytest.approx(1e-4)
    # A second continuation, of a run that was still warming up, begins where that stood.
    early = continued(pretrained, steps=5, warmup_steps=30, warmup_from="init")
    train(early, tmp_path / "early")
    origin = open_start(str(tmp_path / "early")).origin
    assert origin["ended_with"]["lr"] == rows(tmp_path / "early")[-1]["lr"]


def test_the_rate_of_a_copied_checkpoint_is_known_only_behind_its_warm_up(pretrained, tmp_path):
    for warmup, knows in ((2, True), (30, False)):
        run = tmp_path / str(warmup)
        train(continued(pretrained, steps=4, warmup_steps=warmup, warmup_from="init"), run)
        alone = shutil.copytree(checkpoint.latest(run), tmp_path / f"copy-{warmup}" / "c" / "x")
        ended = open_start(str(alone)).origin["ended_with"]
        assert (ended["lr"] == rows(run)[-1]["lr"]) == knows
        assert knows or ended["lr"] is None
        assert ended["loss"] is None


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_optimizer_that_goes_on_makes_one_training_of_two(tmp_path, optimizer):
    """With a constant rate and the same rows the two halves are the whole, bit for bit."""
    flat = {"schedule": "trapezoid", "decay_fraction": 0.0, "optimizer": optimizer}
    whole = real_recipe("fp32").to_dict()
    whole["train"] |= flat
    half = json.loads(json.dumps(whole))
    half["train"] |= {"steps": 3}
    train(Recipe.from_dict(whole), tmp_path / "whole")
    train(Recipe.from_dict(half), tmp_path / "first")

    class Behind:
        """The rows of the second half."""

        def __init__(self) -> None:
            from braidlm.train.loop import build_mixture

            self.inner = build_mixture(Recipe.from_dict(whole))

        def batch(self, step: int):
            return self.inner.batch(step + 3)

    second = half | {"init": str(tmp_path / "first")}
    losses = [row["loss"] for row in rows(tmp_path / "whole")][3:]
    for goes_on in (True, False):
        second["train"]["continue_optimizer"] = goes_on
        out = tmp_path / str(goes_on)
        train(Recipe.from_dict(second), out, mixture=Behind())
        found = [row["loss"] for row in rows(out)]
        assert found[0] == losses[0]  # the same weights
        assert (found == losses) == goes_on
    ends = [checkpoint.load_model(tmp_path / n)[0].state_dict() for n in ("whole", "True")]
    assert all(torch.equal(a, b) for a, b in zip(*(e.values() for e in ends), strict=True))


@pytest.mark.parametrize("stage", ["stopped", "killed"])
def test_a_continued_optimizer_resumes_without_its_init(pretrained, tmp_path, stage):
    init = shutil.copytree(pretrained, tmp_path / "init")
    config = continued(init, continue_optimizer=True, warmup_steps=2, warmup_from="init")
    train(config, tmp_path / "whole")
    if stage == "stopped":
        train(config, tmp_path / "parts", mixture=Stopping(config, 2))
    else:  # killed before its first checkpoint
        train(config, tmp_path / "parts")
        for folder in checkpoint.checkpoints(tmp_path / "parts"):
            shutil.rmtree(folder)
    shutil.rmtree(init)
    train(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_the_highest_loss_since_the_last_row_is_told_and_survives_a_stop(pretrained, tmp_path):
    each = continued(pretrained, steps=6, lr=0.1, log_every=1)
    train(each, tmp_path / "each")
    losses = [row["loss"] for row in rows(tmp_path / "each")]
    assert [row["loss_max"] for row in rows(tmp_path / "each")] == losses
    rare = continued(pretrained, steps=6, lr=0.1, log_every=4)
    train(rare, tmp_path / "rare")
    told = {row["step"]: row["loss_max"] for row in rows(tmp_path / "rare")}
    assert told == {1: losses[0], 4: max(losses[1:4]), 6: max(losses[4:])}
    assert max(losses[1:4]) > losses[3]  # a spike that the row's own loss would hide
    train(rare, tmp_path / "parts", mixture=Stopping(rare, 2))
    train(rare, tmp_path / "parts", resume=True)
    assert rows(tmp_path / "parts") == rows(tmp_path / "rare")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"warmup_from": "init", "warmup_steps": 1}, r"train\.warmup_from = 'init'.*allowed: 'ze"),
        ({"continue_optimizer": True}, r"train\.continue_optimizer = true: .* no state of an opt"),
    ],
)
def test_what_a_folder_of_transformers_cannot_give_is_refused(pretrained, tmp_path, fields, says):
    interop.export_run(pretrained, tmp_path / "hf", format="braid-hf")
    with pytest.raises(InputError, match=says):
        train(continued(tmp_path / "hf", **fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    drawn = continued("x", **fields).model_copy(update={"init": None})
    with pytest.raises(InputError, match="needs an init"):
        train(drawn, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_state_of_another_optimizer_is_refused(pretrained, tmp_path):
    config = continued(pretrained, continue_optimizer=True, optimizer="muon")
    with pytest.raises(InputError, match=r"state of 'adamw': train\.optimizer = 'muon' must be"):
        train(config, tmp_path / "run")


def test_a_warm_up_of_nothing_from_somewhere_is_refused():
    with pytest.raises(InputError, match="needs warmup_steps of at least 1, not 0"):
        continued("x", warmup_from="init")

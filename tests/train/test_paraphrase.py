"""A few updates in every layout: equal tokens, and a stop changes nothing."""

import pytest

from braidlm.arch import Recipe
from braidlm.runs import Run
from braidlm.train import train

from ..data.folders import ARMS, declared, pairs_of, write_folder
from .test_loop import Stopping, assert_same_run, real_recipe


def arm(tmp_path, layout, second, **fields) -> Recipe:
    folder = tmp_path / "p"
    if not folder.exists():
        write_folder(folder, pairs_of(12))
    plain = real_recipe("fp32").to_dict()
    plain["model"] = {"pattern": "M-*-", "d_model": 32, "vocab_size": 259}
    plain["data"] = declared(folder, layout=layout, second=second, **fields).model_dump()
    plain["train"] |= {"steps": 4, "batch_size": 2, "checkpoint_every": 2, "log_every": 1}
    return Recipe.from_dict(plain)


SOME = [("far", "paraphrase"), ("far", "repeat"), ("separate", "paraphrase")]


@pytest.mark.parametrize("arms", [SOME, pytest.param(ARMS, marks=pytest.mark.slow)])
def test_every_arm_trains_on_as_many_tokens(tmp_path, arms):
    ends = {}
    for layout, second in arms:
        out = tmp_path / f"{layout}-{second}"
        assert train(arm(tmp_path, layout, second), out).state == "done"
        ends[layout, second] = Run.open(out).metrics()[-1]
    told = {name: end["source_tokens"]["paraphrase"] for name, end in ends.items()}
    assert {found["input"] for found in told.values()} == {4 * 2 * 512}
    assert {e["tokens"] for e in ends.values()} == {4 * 2 * 512}
    assert len({found["loss"] for found in told.values()}) == 1
    assert len({e["loss"] for e in ends.values()}) == len(arms)
    unique = {name: found["unique"] for name, found in told.items()}
    assert 0 < unique["far", "repeat"] < unique["far", "paraphrase"]


@pytest.mark.parametrize("layout", ["far", "separate"])
def test_a_run_that_was_stopped_in_an_epoch_is_the_one_that_was_not(tmp_path, layout):
    config = arm(tmp_path, layout, "paraphrase", fraction=0.5, loss="all")
    train(config, tmp_path / "whole")
    assert train(config, tmp_path / "parts", mixture=Stopping(config, 1)).step == 2
    train(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")

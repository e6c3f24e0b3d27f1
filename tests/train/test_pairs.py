"""A training on pairs that was stopped, or killed, is the one that was not."""

import json
import os
import shutil

import pytest

from braidlm.arch import Recipe
from braidlm.train import train

from .test_loop import Stopping, assert_same_run, real_recipe


def paired(tmp_path, init) -> Recipe:
    """Rows of several pairs, over more than one epoch."""
    pairs = [{"prompt": f"q{i % 7}?", "answer": "a" * (i % 5 + 1)} for i in range(30)]
    path = tmp_path / "pairs.jsonl"
    if not path.exists():
        path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    plain = real_recipe("fp32").to_dict() | {"init": init}
    plain["model"] = {"pattern": "M-*-", "d_model": 32, "vocab_size": 259}
    plain["data"] = {"seq_len": 32, "cache_dir": str(tmp_path / "cache"), "held_out": 0}
    plain["data"]["sources"] = [{"kind": "pairs", "path": str(path)}]
    plain["train"] |= {"steps": 6, "checkpoint_every": 2}
    return Recipe.from_dict({k: v for k, v in plain.items() if v is not None})


@pytest.mark.parametrize("how", ["signal", "kill"])
def test_a_fine_tuning_on_pairs_resumes_bit_by_bit(tmp_path, how):
    train(paired(tmp_path, None), tmp_path / "base")
    config = paired(tmp_path, str(tmp_path / "base"))
    train(config, tmp_path / "whole")
    if how == "signal":
        assert train(config, tmp_path / "parts", mixture=Stopping(config, 2)).step == 3
    elif (child := os.fork()) == 0:
        train(config, tmp_path / "parts", mixture=Killed(config))
        os._exit(1)
    else:
        assert os.waitpid(child, 0)[1] == 9
    shutil.rmtree(tmp_path / "base")
    train(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


class Killed(Stopping):
    """The recipe's own batches until the process is killed, one update after a checkpoint."""

    def __init__(self, config: Recipe) -> None:
        super().__init__(config, -1)

    def batch(self, step: int):
        if step == 3:
            os.kill(os.getpid(), 9)
        return super().batch(step)

"""From a run directory to result files."""

import json

import pytest
import torch

from braidlm import checkpoint
from braidlm.data.tokenizer import ByteTokenizer
from braidlm.errors import InputError
from braidlm.ops.conv import causal_conv
from braidlm.runs import RESULT_FIELDS, Run
from braidlm.tasks import choose_tasks, evaluate, run_task
from braidlm.tasks.lm import LMWork
from tests.tasks.models import recipe, saved_run


@pytest.fixture
def run(tmp_path) -> Run:
    return saved_run(tmp_path)


def test_results_are_complete_and_written(run):
    told: list[tuple[str, int, int]] = []
    causal_conv(torch.ones(1, 2, 1), torch.ones(1, 2), None, impl="naive")  # another's operator
    found = evaluate(run.path, progress=lambda *row: told.append(row))
    assert [(r["kind"], r["name"]) for r in found] == [("lm", "held-out"), ("mqar", "recall")]
    for result in found:
        path = run.results_dir / f"{result['kind']}-{result['name']}.json"
        assert json.loads(path.read_text()) == result
        assert set(RESULT_FIELDS) <= set(result)
        assert result["metrics"][result["metric"]]["value"] == result["value"]
        assert (result["step"], result["checkpoint"]) == (2, "step-00000002")
        assert (result["device"], result["dtype"], result["seed"]) == ("cpu", "fp32", 3)
        assert {"ssd", "conv", "attention"} <= set(result["ops"])
        assert "naive" not in result["ops"]["conv"]
        assert 0 < result["wall_sec"] < 60
        assert result["config"] == run.config
    assert {name for name, done, total in told if done == total} == {"lm-held-out", "mqar-recall"}


def test_a_result_is_what_the_task_says_of_the_checkpoint(run):
    for name in ("step-00000001", "step-00000002"):
        (result,) = evaluate(run.path, ["lm"], name)
        model, config = checkpoint.load_model(run.checkpoints_dir / name)
        again = run_task(config.tasks[0], model, ByteTokenizer(), config)
        assert result["checkpoint"] == name
        assert result["value"] == again["value"]
        assert result["tables"] == again["tables"]
    first = evaluate(run.path, ["lm"], "step-00000001")[0]["value"]
    assert first != evaluate(run.path, ["lm"])[0]["value"]


def test_evaluating_twice_gives_the_same_numbers_and_leaves_the_random_state(run):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second = evaluate(run.path), evaluate(run.path, force=True)
    assert torch.equal(before, torch.get_rng_state())
    for one, two in zip(first, second, strict=True):
        assert one["metrics"] == two["metrics"]
        assert one["tables"] == two["tables"]


def test_threads_are_those_of_the_recipe_and_return(tmp_path, monkeypatch):
    run = saved_run(tmp_path, train={"device": "cpu", "threads": 3})
    seen = []
    measured = LMWork.score

    def score(work, *given):
        seen.append(torch.get_num_threads())
        return measured(work, *given)

    monkeypatch.setattr(LMWork, "score", score)
    evaluate(run.path, ["lm"], limit=1)
    assert seen == [3]
    assert torch.get_num_threads() == 1


def test_a_limited_look_writes_nothing(run):
    found = evaluate(run.path, limit=2)
    assert [r["n"] for r in found] == [2, 4]
    assert not list(run.results_dir.glob("[!.]*"))  # a lock may stay
    with pytest.raises(InputError, match="limit = 0: must be at least 1"):
        evaluate(run.path, limit=0)


def test_tasks_are_chosen_by_name_or_kind(tmp_path):
    tasks = [{"kind": "lm"}, {"kind": "lm", "name": "long"}, {"kind": "mqar", "name": "long"}]
    config = recipe(tmp_path, tasks=tasks)

    def chosen(*names: str) -> list[int]:
        return [config.tasks.index(task) for task in choose_tasks(config, names)]

    assert chosen("lm") == [0, 1]
    assert chosen("long") == [1, 2]
    assert chosen("mqar-long", "lm-held-out") == [0, 2]
    assert choose_tasks(config, None) == list(config.tasks)
    with pytest.raises(
        InputError, match=r"'recal' is not in .*allowed: lm-held-out, lm-long, mqar"
    ):
        choose_tasks(config, ["lm", "recal"])
    with pytest.raises(InputError, match="declares no tasks"):
        choose_tasks(recipe(tmp_path, tasks=[]), None)


def test_what_is_missing_is_named(run, tmp_path):
    with pytest.raises(InputError, match="'step-9'; it has: step-00000001, step-00000002"):
        evaluate(run.path, checkpoint="step-9")
    with pytest.raises(InputError, match="no such folder"):
        evaluate(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is a checkpoint: give its run directory"):
        evaluate(run.checkpoints_dir / "step-00000001")
    (run.checkpoints_dir / "step-00000002" / "weights.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"weights\.safetensors has 3 bytes instead of"):
        evaluate(run.path)
    assert not list(run.results_dir.glob("[!.]*"))  # a lock may stay


def test_a_task_that_fails_leaves_the_results_before_it(tmp_path, monkeypatch):
    tasks = [{"kind": "mqar", "n_items": 2}, {"kind": "lm"}]
    run = saved_run(tmp_path, tasks=tasks)

    def nothing_held_out(*_):
        raise InputError("no held-out document")

    monkeypatch.setattr("braidlm.tasks.families.LMWork", nothing_held_out)
    with pytest.raises(InputError, match="no held-out document"):
        evaluate(run.path)
    found = sorted(path.name for path in run.results_dir.glob("[!.]*"))
    assert found == ["mqar-recall.items.jsonl", "mqar-recall.json"]


def test_bf16_is_recorded(run):
    (coarse,) = evaluate(run.path, ["lm"], dtype="bf16", limit=3)
    (fine,) = evaluate(run.path, ["lm"], limit=3)
    assert (coarse["dtype"], fine["dtype"]) == ("bf16", "fp32")
    assert coarse["value"] != fine["value"]
    assert coarse["value"] == pytest.approx(fine["value"], rel=0.02)

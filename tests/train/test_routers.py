"""Router losses and loads in training: micro-batches, processes, recomputation, resumption."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from braidlm.arch import Spec
from braidlm.model import HybridLM
from braidlm.runs import Run
from braidlm.train import train
from braidlm.train.precision import resolve_precision
from braidlm.train.recompute import recomputed
from braidlm.train.routers import Routers
from braidlm.train.step import Place, accumulate
from tests.specs import spec

from .test_loop import Stopping, assert_same_run, real_recipe
from .tiny import TinyBatch, TinyLM, TinyMixture

CPU = torch.device("cpu")
SPREAD = {"balance": "bias", "bias_rate": 0.5}
FP32 = resolve_precision("fp32", CPU)


def model_of(**fields) -> HybridLM:
    torch.manual_seed(0)
    return HybridLM(spec("E*E", mixers={"E": fields})).double()


def updated(model: HybridLM, micro: int = 0, place: Place = Place(CPU)):  # noqa: B008
    """Loss, router loss, gradients and loads of one batch of 4 padded rows."""
    routers = Routers(model)
    model.zero_grad()
    loss = accumulate(model, TinyMixture().batch(3), micro, FP32, place, 0, 3, routers)
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return loss, routers, grads


def assert_close(found, expected, rtol=1e-6):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=1e-8)


@pytest.mark.parametrize("micro", [1, 2, 3])
@pytest.mark.parametrize(
    "fields",
    [
        {"aux_over": "row", "aux_coef": 3.0, "z_coef": 0.1},
        {"balance": "bias", "z_coef": 0.1},
        {"balance": "none"},
    ],
)
def test_micro_batches_change_nothing(fields, micro):
    loss, routers, whole = updated(model_of(**fields))
    split_loss, split_routers, split = updated(model_of(**fields), micro)
    torch.testing.assert_close(split_loss, loss, rtol=1e-6, atol=0)
    assert_close(split, whole)
    assert_close(split_routers.loads, routers.loads, rtol=0)
    assert split_routers.told() == pytest.approx(routers.told(), rel=1e-6)
    assert ("router_loss" in routers.told()) == ("z_coef" in fields)


def test_over_the_batch_the_balance_is_that_of_each_micro_batch_by_its_tokens():
    model = model_of(aux_coef=3.0)
    batch = TinyMixture().batch(3)
    parts = []
    for row in range(4):
        segments = batch.segments
        assert segments is not None
        one = TinyBatch(
            batch.tokens[row : row + 1],
            batch.targets[row : row + 1].fill_(1),
            type(segments).from_doc_ids(segments.doc[row : row + 1]),
            5,
            {},
        )
        routers = Routers(model)
        accumulate(model, one, 0, FP32, Place(CPU), 0, 3, routers)
        parts.append(routers.told()["router_loss"])
    found = updated(model, 1)[1].told()["router_loss"]
    assert found == pytest.approx(sum(parts) / 4, rel=1e-6)  # 5 tokens each
    assert found != pytest.approx(updated(model)[1].told()["router_loss"], rel=1e-4)


def test_the_gradient_is_that_of_both_losses_by_hand():
    model = model_of(aux_coef=3.0)
    _, _, found = updated(model)
    batch = TinyMixture().batch(3)
    model.zero_grad()
    loss, aux = model.loss(batch.tokens, batch.targets, batch.segments, with_aux=True)
    (loss + aux["blocks.0.router_loss"] + aux["blocks.2.router_loss"]).backward()
    expected = {n: p.grad for n, p in model.named_parameters()}
    assert_close(found, expected, rtol=1e-5)
    model.zero_grad()
    model.loss(batch.tokens, batch.targets, batch.segments).backward()
    name = "blocks.0.mix.mixer.router.weight"
    without = model.get_parameter(name).grad
    assert without is not None
    assert float((found[name] - without).abs().max()) > 1e-3


def test_processes_share_the_batch_and_their_gradients_and_loads_add_up():
    fields = {"aux_over": "row", "aux_coef": 3.0}
    _, routers, whole = updated(model_of(**fields))
    parts = [updated(model_of(**fields), 1, Place(CPU, rank, 2)) for rank in range(2)]
    for name, gradient in whole.items():
        total = parts[0][2][name] + parts[1][2][name]
        torch.testing.assert_close(total, gradient, rtol=1e-6, atol=1e-8)
    for name, load in routers.loads.items():
        assert torch.equal(parts[0][1].loads[name] + parts[1][1].loads[name], load)
    told = [p[1].told()["router_loss"] for p in parts]
    assert sum(told) == pytest.approx(routers.told()["router_loss"], rel=1e-6)


def test_computing_a_block_again_counts_nothing_twice():
    fields = {"balance": "bias", "z_coef": 0.1}
    loss, routers, plain = updated(model_of(**fields))
    model = model_of(**fields)
    with recomputed(model, 1):
        again, twice, found = updated(model)
    assert torch.equal(again, loss)
    assert twice.told() == routers.told()
    for name, gradient in plain.items():
        assert torch.equal(found[name], gradient), name


def test_biases_move_once_after_the_update_by_the_loads_of_the_whole_batch():
    model = model_of(balance="bias", bias_rate=0.5)
    _, routers, _ = updated(model, 1)
    bias = model.get_buffer("blocks.2.mix.mixer.router.bias")
    assert not bias.any()
    load = routers.loads["blocks.2"].double()
    assert int(load.sum()) == 4 * 5 * 2
    routers.balance()
    assert torch.equal(bias, 0.5 * torch.sign(load.mean() - load))
    assert bias.abs().max() == 0.5


def test_a_shared_router_moves_once_by_the_loads_of_all_its_uses():
    torch.manual_seed(0)
    fields = {"shared": True, "balance": "bias", "bias_rate": 0.5}
    model = HybridLM(spec("E*E", mixers={"E": fields})).double()
    _, routers, _ = updated(model)
    assert sorted(routers.loads) == ["blocks.0", "blocks.2"]
    load = (routers.loads["blocks.0"] + routers.loads["blocks.2"]).double()
    routers.balance()
    bias = model.get_buffer("blocks.0.mix.mixer.router.bias")
    assert torch.equal(bias, 0.5 * torch.sign(load.mean() - load))


@pytest.mark.slow
def test_processes_move_their_biases_by_the_loads_of_all(tmp_path):
    """Two processes of two rows each end with the bias of one process with four."""
    work = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.train.test_routers", str(tmp_path), str(rank)],
            cwd=Path(__file__).parents[2],
        )
        for rank in range(2)
    ]
    assert [one.wait(timeout=60) for one in work] == [0, 0]
    model = model_of(**SPREAD)
    _, routers, _ = updated(model)
    routers.balance()
    expected = model.get_buffer("blocks.2.mix.mixer.router.bias")
    for rank in range(2):
        assert torch.equal(torch.load(tmp_path / f"{rank}.pt"), expected)
    _, alone, _ = updated(model_of(**SPREAD), place=Place(CPU, 0, 2))
    load = alone.loads["blocks.2"].double()
    assert not torch.equal(0.5 * torch.sign(load.mean() - load), expected)


def test_a_model_without_routers_is_asked_nothing():
    assert not Routers(TinyLM())
    assert not Routers(HybridLM(Spec.parse("*-", d_model=8, vocab_size=16)))
    assert Routers(TinyLM()).told() == {}


def recipe_of(**fields):
    real = real_recipe("fp32")
    data = real.to_dict()
    data["model"] = {
        **{k: v for k, v in data["model"].items() if k in ("d_model", "vocab_size")},
        "pattern": "E*",
        "mixers": {"E": {"n_experts": 4, "d_ff": 8, **fields}},
    }
    return type(real).from_dict(data)


def test_a_run_tells_its_routers_and_evens_the_load(tmp_path):
    recipe = recipe_of(balance="bias", bias_rate=0.02, z_coef=0.001)
    train(recipe, tmp_path / "run")
    rows = Run.open(tmp_path / "run").metrics()
    assert all({"router_loss", "load_max", "load_min"} <= set(row) for row in rows)
    assert all(0 <= row["load_min"] <= 1 <= row["load_max"] <= 2 for row in rows)
    json.dumps(rows, allow_nan=False)


@pytest.mark.parametrize(
    "fields", [{"balance": "bias", "bias_rate": 0.02}, {"aux_coef": 0.1, "z_coef": 0.01}]
)
def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(tmp_path, fields):
    recipe = recipe_of(**fields)
    train(recipe, tmp_path / "plain")
    train(recipe, tmp_path / "stopped", mixture=Stopping(recipe, 3))
    assert Run.open(tmp_path / "stopped").status()["state"] == "interrupted"
    train(recipe, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "plain", tmp_path / "stopped")


if __name__ == "__main__":  # one of two processes: FOLDER RANK
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    model = model_of(**SPREAD)
    _, routers, _ = updated(model, 1, Place(CPU, rank, 2))
    routers.balance()
    torch.save(model.get_buffer("blocks.2.mix.mixer.router.bias"), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()

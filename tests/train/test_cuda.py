"""What only a GPU can show; left out where there is none."""

import pytest
import torch
from safetensors.torch import load_file

from braidlm import checkpoint
from braidlm.arch import Recipe
from braidlm.model import HybridLM
from braidlm.ops import dispatch
from braidlm.parallel import overlapped
from braidlm.runs import Run
from braidlm.train import train
from braidlm.train.compile import compiled
from braidlm.train.loop import build_mixture
from braidlm.train.precision import resolve_precision
from braidlm.train.record import Recorder
from braidlm.train.step import Place, accumulate, rows_of
from tests.specs import spec

from .test_compile import packed, update
from .test_loop import Stopping, assert_same_run, real_recipe, rows
from .tiny import TinyBatch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def on_gpu(precision: str, **fields) -> Recipe:
    plain = real_recipe(precision).to_dict()
    plain["train"] |= {"device": "cuda", "deterministic": True} | fields
    return Recipe.from_dict(plain)


def test_auto_is_bf16_on_the_gpu_and_is_recorded(tmp_path):
    train(on_gpu("auto", device="auto"), tmp_path)
    env = Run.open(tmp_path).env
    assert env["device"] == "cuda"
    assert env["precision"].startswith("bf16 autocast, chosen by auto")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_is_the_same_bit_by_bit(tmp_path, precision):
    config = on_gpu(precision)
    train(config, tmp_path / "whole")
    assert train(config, tmp_path / "parts", mixture=Stopping(config, 2)).step == 3
    train(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_the_gpu_trains_as_the_cpu_does(tmp_path):
    train(on_gpu("fp32"), tmp_path / "gpu")
    train(real_recipe("fp32"), tmp_path / "cpu")
    for gpu, cpu in zip(rows(tmp_path / "gpu"), rows(tmp_path / "cpu"), strict=True):
        assert gpu["loss"] == pytest.approx(cpu["loss"], rel=1e-4)
        assert gpu["grad_norm"] == pytest.approx(cpu["grad_norm"], rel=1e-3)


def test_a_checkpoint_of_the_gpu_is_read_anywhere(tmp_path):
    config = on_gpu("bf16")
    train(config, tmp_path)
    stored = load_file(checkpoint.latest(tmp_path) / "weights.safetensors")
    for device in ("cpu", "cuda"):
        model, _ = checkpoint.load_model(tmp_path, device)
        for name, tensor in checkpoint.unique_tensors(model).items():
            assert tensor.device.type == device
            assert torch.equal(tensor.cpu(), stored[name]), name


def test_everything_of_a_batch_is_moved():
    gpu = torch.device("cuda")
    tokens, targets, segments = rows_of(build_mixture(on_gpu("fp32")).batch(0), slice(1, 3), gpu)
    assert tokens.is_cuda
    assert targets.is_cuda
    assert segments is not None
    assert segments.doc.is_cuda


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("pattern", ["M*-", "{M*}-"])
def test_compiled_code_has_the_gradients_of_eager_code(pattern):
    torch.manual_seed(0)
    model = HybridLM(spec(pattern)).cuda()
    tokens, segments = packed()
    tokens, segments = tokens.cuda(), segments.to("cuda")
    expected = update(model, tokens, segments)
    with compiled(model):
        found = update(model, tokens, segments)
    unpacked = update(model, tokens, None)
    whole = update(model, tokens, None, torch.compile(model.loss, fullgraph=True))
    for one, other in [*zip(found, expected, strict=True), *zip(whole, unpacked, strict=True)]:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pattern", ["M*-", "M-{M*}-"])
def test_joined_operators_are_their_parts(pattern, monkeypatch):
    """Sums with norms, Mamba-2 between its projections, SwiGLU with its product."""
    torch.manual_seed(0)
    model = HybridLM(spec(pattern)).cuda()
    tokens, segments = packed()
    tokens, segments = tokens.cuda(), segments.to("cuda")
    dispatch.reset()
    found = update(model, tokens, segments)
    assert dispatch.used()["add_norm"] == "triton"
    monkeypatch.setattr("braidlm.model.pays", lambda hidden: False)
    monkeypatch.setattr("braidlm.mixers.mamba2.joins", lambda *call: False)
    monkeypatch.setattr("braidlm.mixers.mlp.MLP.through", lambda *call: None)
    dispatch.reset()
    expected = update(model, tokens, segments)
    assert "add_norm" not in dispatch.used()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("pattern", ["M*-", "{M*}-", "G{M*}-"])
def test_recorded_passes_are_those_that_are_not(pattern, precision, overlaps):
    gpu = torch.device("cuda")
    torch.manual_seed(0)
    heads = {"n_heads": 2, "n_kv_heads": 1, "head_dim": 8}  # what attends to packed rows in bf16
    model = HybridLM(spec(pattern, mixers={"*": heads})).to(gpu)
    how = resolve_precision(precision, gpu)
    recorder = Recorder(model, how, gpu)
    packings = [None, None] if precision == "fp32" else [None, packed()[1], packed()[1], None]

    def passes(batch: TinyBatch, recorder: Recorder | None) -> list[torch.Tensor]:
        model.zero_grad()
        loss = accumulate(model, batch, 2, how, Place(gpu), 0, 0, recorder=recorder)
        return [loss, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    for segments in packings:
        tokens = packed()[0]
        targets = tokens.roll(1)
        if segments is not None:
            targets = targets.where(segments.is_real, -100)
        batch = TinyBatch(tokens, targets, segments, tokens.numel(), {})
        expected = passes(batch, None)
        with overlapped(model, overlaps):
            found = passes(batch, recorder)
        limit = 1e-4 if precision == "fp32" else 5e-2
        for one, other in zip(found, expected, strict=True):
            assert float((one - other).norm()) <= limit * float(other.norm()) + 1e-6


def test_a_recorded_run_trains_as_one_that_is_not(tmp_path):
    train(on_gpu("bf16"), tmp_path / "plain")
    train(on_gpu("bf16", cuda_graph=True), tmp_path / "recorded")
    for plain, recorded in zip(rows(tmp_path / "plain"), rows(tmp_path / "recorded"), strict=True):
        assert recorded["loss"] == pytest.approx(plain["loss"], rel=1e-3)
        assert recorded["grad_norm"] == pytest.approx(plain["grad_norm"], rel=2e-2)

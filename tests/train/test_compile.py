import itertools
from collections.abc import Callable
from functools import partial

import pytest
import torch

from braidlm.arch import Recipe
from braidlm.arch.experiment import TrainConfig
from braidlm.errors import InputError
from braidlm.model import HybridLM
from braidlm.runs import Run
from braidlm.segments import Segments
from braidlm.train import train
from braidlm.train.compile import compilable, compiled
from braidlm.train.recompute import recomputed
from tests.specs import spec

from .test_loop import real_recipe

# The compiler does things that warn, and hides the warnings by itself where they are no errors.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
DRAW = torch.Generator().manual_seed(0)


def packed(rows: int = 4, length: int = 40) -> tuple[torch.Tensor, Segments]:
    """Rows of documents of random lengths, some of them followed by padding."""
    lengths = []
    for _ in range(rows):
        cuts = torch.randint(1, length, (int(torch.randint(1, 7, (), generator=DRAW)),))
        edges = [0, *sorted(set(cuts.tolist()))]
        lengths.append([b - a for a, b in itertools.pairwise(edges)])
    tokens = torch.randint(31, (rows, length), generator=DRAW)
    return tokens, Segments.from_lengths(lengths, length)


def update(
    model: HybridLM,
    tokens: torch.Tensor,
    segments: Segments | None,
    make_loss: Callable[..., torch.Tensor] | None = None,
) -> list[torch.Tensor]:
    model.zero_grad()
    targets = tokens.roll(1)
    if segments is not None:
        # What comes out at padding is finite, means nothing, and differs between the forms.
        targets = targets.where(segments.is_real, -100)
    loss = (make_loss or model.loss)(tokens, targets, segments)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def test_one_graph_per_kind_of_mixer_serves_every_packing():
    torch.manual_seed(0)
    model = HybridLM(spec("M{M*}-"))
    assert compilable(model) == [
        "blocks.0",
        "blocks.1.mix.branches.0",
        "blocks.2",
    ]
    batches = [packed() for _ in range(20)]
    assert len({segments.n_docs for _, segments in batches}) > 5
    eager = [update(model, *batch) for batch in batches]
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    with compiled(model, backend=count):
        fast = [update(model, *batch) for batch in batches]
        assert len(graphs) == 3  # two kinds of sublayer and a branch, whatever the packing
        with torch.no_grad():  # evaluation, states and telemetry stay eager
            told = model(*batches[0], telemetry=True)
        assert told.state is not None
        assert len(graphs) == 3
    for one, other in zip(eager, fast, strict=True):
        for expected, found in zip(one, other, strict=True):
            torch.testing.assert_close(found, expected, rtol=2e-5, atol=1e-6)
    assert all("forward" not in vars(module) for module in model.modules())


def test_a_compiled_sublayer_is_computed_again_where_it_keeps_its_input_alone():
    torch.manual_seed(0)
    model = HybridLM(spec("M-"))
    calls = []

    def count(graph, inputs):
        def run(*tensors):
            calls.append(1)
            return graph.forward(*tensors)

        return run

    tokens, segments = packed()
    eager = update(model, tokens, segments)
    with compiled(model, backend=count), recomputed(model, 2):
        fast = update(model, tokens, segments)
    assert len(calls) == 3  # Mamba-2 once, the MLP twice
    for expected, found in zip(eager, fast, strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-5, atol=1e-6)
    assert all("forward" not in vars(module) for module in model.modules())


def test_a_budget_keeps_less_and_computes_the_same():
    torch.manual_seed(0)
    model = HybridLM(spec("--"))
    tokens, segments = packed()
    expected = update(model, tokens, segments)
    sizes = []
    for budget in (1.0, 0.3):
        torch.compiler.reset()
        kept: list[int] = []

        def pack(t: torch.Tensor, kept: list[int] = kept) -> torch.Tensor:
            kept.append(t.nbytes)
            return t

        with (
            compiled(model, True, budget, backend="aot_eager_decomp_partition"),
            torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t),
        ):
            found = update(model, tokens, segments)
        sizes.append(sum(kept))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=2e-5, atol=1e-6)
    assert sizes[1] < 0.9 * sizes[0]


def test_a_budget_without_graphs_is_refused():
    with pytest.raises(ValueError, match=r"activation_budget = 0\.5: needs compile = true"):
        TrainConfig(activation_budget=0.5)


@pytest.mark.parametrize(
    ("pattern", "backend"),
    [
        ("M*-", "aot_eager"),
        ("{M*}-", "aot_eager"),
        pytest.param("{M*}-", "inductor", marks=pytest.mark.slow),
    ],
)
def test_the_whole_loss_is_one_graph_where_each_row_is_one_document(pattern, backend):
    torch.manual_seed(0)
    torch.compiler.reset()
    model = HybridLM(spec(pattern))
    tokens, _ = packed()
    expected = update(model, tokens, None)
    whole = torch.compile(model.loss, fullgraph=True, backend=backend)
    found = update(model, tokens, None, whole)
    assert len(found) == len(expected) > 5
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=1e-6)


def test_a_model_in_which_nothing_compiles_is_refused():
    with (
        pytest.raises(InputError, match=r"train\.compile = true: nothing in this model compiles"),
        compiled(HybridLM(spec("*"))),
    ):
        pass


def test_a_cpu_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with (
        pytest.raises(InputError, match=r"train\.compile = true: needs a C\+\+ compiler"),
        compiled(HybridLM(spec("M"))),
    ):
        pass


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_run_has_the_losses_of_an_eager_one(tmp_path, monkeypatch, backend):
    monkeypatch.setattr("braidlm.train.loop.compiled", partial(compiled, backend=backend))
    plain = real_recipe("fp32").to_dict()
    extras = {"compile": True, "telemetry_every": 2, "activation_checkpointing": 1}
    train(Recipe.from_dict(plain), tmp_path / "eager")
    fast = Recipe.from_dict(plain | {"train": plain["train"] | extras})
    train(fast, tmp_path / "fast")
    rows = {row["step"]: row for row in Run.open(tmp_path / "fast").metrics()}
    for row in Run.open(tmp_path / "eager").metrics():
        assert rows[row["step"]]["loss"] == pytest.approx(row["loss"], rel=1e-5)
        assert rows[row["step"]]["grad_norm"] == pytest.approx(row["grad_norm"], rel=1e-4)
    with pytest.raises(InputError, match=r"train\.compile = False"):
        train(Recipe.from_dict(plain), tmp_path / "fast", resume=True)

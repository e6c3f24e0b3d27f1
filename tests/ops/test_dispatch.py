import pytest
import torch

from braidlm.errors import InputError
from braidlm.ops import dispatch
from braidlm.ops.attention import attention
from braidlm.ops.conv import causal_conv
from braidlm.ops.dispatch import Call, Implementation, Operator
from braidlm.ops.gated_delta import gated_delta
from braidlm.ops.loss import linear_cross_entropy
from braidlm.ops.norm import gated_rms_norm, rms_norm
from braidlm.ops.ssd import ssd
from braidlm.segments import Segments
from tests.ops.compare import assert_near, with_gradients
from tests.tolerances import FORMS_FP32

CALL = Call("cpu", torch.float32, {"T": 4}, needs_grad=True)
OPERATOR = Operator(
    "fold",
    (
        Implementation("fast", lambda: "fast", lambda c: "no gradients" if c.needs_grad else None),
        Implementation("plain", lambda: "plain", dispatch.always),
    ),
)


@pytest.fixture(autouse=True)
def _empty_record():
    dispatch.reset()


def test_auto_takes_the_first_without_objection():
    assert OPERATOR.choose("auto", CALL).name == "plain"
    assert OPERATOR.choose("auto", CALL._replace(needs_grad=False)).name == "fast"


def test_a_name_that_cannot_run_raises_with_its_reason():
    with pytest.raises(InputError, match=r"'fast' of fold cannot run here: no gradients"):
        OPERATOR.choose("fast", CALL)
    assert dispatch.used() == {}


def test_an_unknown_name_lists_the_names():
    with pytest.raises(InputError, match="auto, fast, plain"):
        OPERATOR.choose("turbo", CALL)


def test_auto_without_any_candidate_gives_every_reason():
    alone = Operator("fold", OPERATOR.implementations[:1])
    with pytest.raises(InputError, match="fast: no gradients"):
        alone.choose("auto", CALL)


def test_the_record_holds_every_choice_until_reset():
    OPERATOR.choose("auto", CALL)
    OPERATOR.choose("fast", CALL._replace(needs_grad=False))
    OPERATOR.choose("plain", CALL)
    assert dispatch.used() == {"fold": "plain+fast"}
    dispatch.reset()
    assert dispatch.used() == {}


def _small_ssd(**more):
    x, bc = torch.randn(1, 3, 2, 2), torch.randn(1, 3, 1, 2)
    return ssd(x, torch.rand(1, 3, 2), -torch.ones(2), bc, bc, **more)


def test_an_operator_records_what_it_ran():
    _small_ssd()
    _small_ssd(impl="naive")
    assert dispatch.used() == {"ssd": "chunk+naive"}
    with pytest.raises(InputError, match="one token per row"):
        _small_ssd(impl="step")


# The compiler itself instantiates autograd functions, which warns.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_code_does_not_depend_on_what_ran_before():
    """Recording would make every graph a function of the record: each call compiled it again."""
    x, bc = torch.randn(1, 3, 2, 2), torch.randn(1, 3, 1, 2)
    graphs = []

    def counting(graph, _):
        graphs.append(graph)
        return graph

    compiled = torch.compile(
        lambda x: ssd(x, x[..., 0] ** 2, -torch.ones(2), bc, bc)[0],
        backend=counting,
        fullgraph=True,
    )
    first = compiled(x)
    assert dispatch.used() == {}
    assert torch.equal(first, ssd(x, x[..., 0] ** 2, -torch.ones(2), bc, bc)[0])
    assert dispatch.used() == {"ssd": "chunk"}
    compiled(x)
    assert len(graphs) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["ssd", "gated_delta", "conv", "attention", "norm", "loss"])
def test_every_operator_compiles_into_one_graph(name):
    x = torch.randn(2, 10, 6, requires_grad=True)
    segments = Segments.from_lengths([[3, 2, 5], [4, 6]], 10)
    heads, bc = (2, 10, 2, 3), torch.randn(2, 10, 1, 4)
    steps, rates, weight = torch.rand(2, 10, 2), -torch.rand(2), torch.randn(6, 4)

    def run(x):
        if name == "ssd":
            return ssd(x.view(heads), steps, rates, bc, bc, chunk_size=4, segments=segments)[0]
        if name == "gated_delta":
            q, beta = x.view(heads), steps.sigmoid()
            g = -q.square()
            return gated_delta(q, q, q, g, beta, chunk_size=4, segments=segments)[0]
        if name == "conv":
            return causal_conv(x, weight, None, activation="silu", segments=segments)[0]
        if name == "attention":
            return attention(x.view(heads), x.view(heads), x.view(heads), return_state=False)[0]
        if name == "norm":
            return gated_rms_norm(rms_norm(x, None, 1e-5), x, None, 1e-5)
        return linear_cross_entropy(x, weight.t() @ weight.new_ones(6, 6), segments.position % 4)

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    ours, truth = (with_gradients(lambda f=f: (f(x),), [x]) for f in (compiled, run))
    for a, b in zip(ours, truth, strict=True):
        assert_near(a, b, FORMS_FP32)


def test_autocast_does_not_reach_into_an_operator():
    x, bc = torch.randn(1, 70, 2, 4), torch.randn(1, 70, 1, 4)
    args = (x, torch.rand(1, 70, 2), -torch.ones(2), bc, bc)
    plain, _ = ssd(*args)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast, state = ssd(*args)
    assert torch.equal(plain, cast)
    assert state is not None
    assert state.dtype == torch.float32


@pytest.mark.parametrize("chunk_size", [2, 64])
def test_a_batch_of_padding_alone_has_no_state_and_no_output(chunk_size):
    segments = Segments.from_lengths([[], []], 5)
    x, bc = torch.randn(2, 5, 2, 4), torch.randn(2, 5, 1, 4)
    args = (x, torch.rand(2, 5, 2), -torch.ones(2), bc, bc)
    y, state = ssd(*args, chunk_size=chunk_size, segments=segments)
    o, cache = attention(x, x, x, segments=segments)
    _, conv = causal_conv(x[..., 0], torch.randn(2, 4), None, segments=segments)
    assert not bool(y.any() | o.any())
    assert state is not None
    assert cache is not None
    assert conv is not None
    assert len(state) == len(cache.k) == len(conv) == 0

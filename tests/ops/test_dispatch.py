import pytest
import torch

from braidlm.errors import InputError
from braidlm.ops import dispatch
from braidlm.ops.dispatch import Call, Implementation, Operator
from braidlm.ops.ssd import ssd

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
def test_the_choice_survives_compilation():
    compiled = torch.compile(_small_ssd, backend="eager", fullgraph=True)
    compiled()
    assert dispatch.used() == {"ssd": "chunk"}


def test_autocast_does_not_reach_into_an_operator():
    x, bc = torch.randn(1, 70, 2, 4), torch.randn(1, 70, 1, 4)
    args = (x, torch.rand(1, 70, 2), -torch.ones(2), bc, bc)
    plain, _ = ssd(*args)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast, state = ssd(*args)
    assert torch.equal(plain, cast)
    assert state is not None
    assert state.dtype == torch.float32

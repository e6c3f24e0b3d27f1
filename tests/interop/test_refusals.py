"""What docs/interop.md says is refused, family by family: each refusal is set off."""

from typing import Any

import pytest
import torch

from braidlm import interop
from braidlm.arch.mixers import MoEConfig
from braidlm.errors import InputError
from braidlm.interop.families import FAMILIES, READ_ONLY
from braidlm.interop.fields import Must, Past
from tests.interop.folders import llama

EVERY = FAMILIES | READ_ONLY
COMMON = {"vocab_size": 32, "hidden_size": 64, "num_hidden_layers": 4}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
ITS_OWN: dict[str, dict[str, Any]] = {
    "mamba": COMMON,
    "falcon_mamba": COMMON,
    "mamba2": COMMON,
    "gated_deltanet": COMMON,
    "nemotron_h": COMMON | HEADS | {"hybrid_override_pattern": "M-*E"},
    "kimi_linear": COMMON
    | HEADS
    | {"num_key_value_heads": 4, "layer_types": ["linear_attention", "full_attention"] * 2},
    "zamba": COMMON | HEADS | {"num_key_value_heads": 4},
    "zamba2": COMMON
    | HEADS
    | {
        "num_key_value_heads": 4,
        "n_mamba_heads": 16,
        "layers_block_type": ["mamba", "hybrid"] * 2,
    },
}
MUSTS = [
    (name, field.theirs, field.value)
    for name, family in EVERY.items()
    for field in family.fields
    if isinstance(field, Must | Past)
]


def config(name: str) -> dict[str, Any]:
    return ITS_OWN.get(name, COMMON | HEADS)


def another(value: Any) -> Any:
    """A value of the same sort that means something else."""
    return {True: False, False: True, None: 7}.get(value, f"not {value}")


@pytest.mark.parametrize("name", EVERY)
def test_a_field_that_nobody_knows_is_refused_unless_it_is_false_or_empty(name):
    spec = EVERY[name].spec(config(name))
    for nothing in (None, False, [], {}):
        assert EVERY[name].spec({**config(name), "never_heard_of": nothing}) == spec
    for value in (1, 0, True, "x", [0]):
        with pytest.raises(InputError, match=r"never_heard_of = .*no field of ours expresses it"):
            EVERY[name].spec({**config(name), "never_heard_of": value})


@pytest.mark.parametrize(("name", "field", "value"), MUSTS)
def test_what_has_one_value_in_all_that_we_compute_is_refused_otherwise(name, field, value):
    given = {**config(name), field: another(value)}
    with pytest.raises(InputError, match=rf"config field {field} = .*no field of ours"):
        EVERY[name].spec(given)
    assert EVERY[name].spec({**config(name), field: value}) == EVERY[name].spec(config(name))


def test_the_documented_refusals_are_among_them():
    known = {(name, field) for name, field, _ in MUSTS}
    assert ("nemotron_h", "num_nextn_predict_layers") in known
    assert ("kimi_linear", "num_nextn_predict_layers") in known
    assert ("kimi_linear", "mla_use_nope") in known
    assert all((name, "model_type") not in known for name in EVERY)


@pytest.mark.parametrize("name", EVERY)
def test_experts_come_without_a_loss_that_balances_their_load(name):
    spec = EVERY[name].spec(config(name))
    experts = [b for s in spec.sublayers for b in s.branches if isinstance(b, MoEConfig)]
    assert {e.balance for e in experts} <= {"none", "bias"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_no_number_is_refused_in_and_out(tmp_path, value):
    folder = llama(tmp_path / "a")
    model = interop.load(folder).model
    with torch.no_grad():
        model.get_parameter("blocks.1.mix.out_proj.weight")[2, 3] = value
    with pytest.raises(InputError, match=r"'blocks.1.mix.out_proj.weight' holds NaN or infinity"):
        interop.save(model, tmp_path / "b")
    assert not (tmp_path / "b").exists()

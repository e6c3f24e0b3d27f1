"""Two models made equal in one quantity: within tolerance or refused, inside the bounds, least."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braidlm.arch import Spec
from braidlm.arch.match import FACTOR, QUANTITIES, TOLERANCE, Match, Quantity, match, measures
from braidlm.arch.toml import model_table
from braidlm.errors import InputError
from tests.specs import ALL, ATTENTION, FUSIONS, spec

PATTERNS = ("M-*-", "M", "*-", "(M-)2*", "{M*}-", "P-*", "-", "N-M=", "W-*")


@st.composite
def models(draw: Any) -> Spec:
    """Any small model: every knob, fusions with rules of their own, letters of one's own."""
    pattern = draw(st.sampled_from(PATTERNS))
    heads = draw(st.sampled_from([1, 2, 4]))
    mixers: dict[str, Any] = {
        "M": {"n_heads": 2 * heads, "head_dim": 4, "d_state": draw(st.integers(1, 20))},
        "*": {"n_heads": 4, "n_kv_heads": heads, "head_dim": draw(st.sampled_from([2, 8]))},
        "-": {"d_ff": draw(st.integers(1, 300))},
        "W": {**ATTENTION, "window": draw(st.integers(1, 100))},
    }
    if "N" in pattern:
        pattern = pattern.replace("=", "x")
        mixers |= {"N": {"kind": "mamba2", "n_heads": 6, "n_groups": 3, "head_dim": 2}}
        mixers |= {"x": {"kind": "mlp", "d_ff": 17}}
    fields: dict[str, Any] = {}
    if "{" in pattern:
        fields["fusion"] = FUSIONS[draw(st.sampled_from(sorted(FUSIONS)))]
    if "P" in pattern:
        fields["parallel"] = {"P": {"branches": "M*", "combine": "concat"}}
    data = {"pattern": pattern, "d_model": draw(st.sampled_from([8, 24, 64])), "vocab_size": 40}
    try:
        return Spec.of({**data, "mixers": mixers, **fields})
    except InputError:  # a fusion that wants branches of equal width
        mixers["*"]["head_dim"], mixers["M"]["head_dim"] = 4, 8 // heads
        return Spec.of({**data, "mixers": mixers, **fields})


def sizes(node: Any, path: str = "") -> dict[str, int]:
    """Every whole number of a declaration by its path."""
    if isinstance(node, dict):
        return {k: v for key, x in node.items() for k, v in sizes(x, f"{path}.{key}").items()}
    return {path.lstrip("."): node} if type(node) is int else {}


def matched_or_refused(a: Spec, b: Spec, on: Quantity, context: int) -> Match | str:
    try:
        return match(a, b, on, context)
    except InputError as error:
        return str(error)


@given(models(), models(), st.sampled_from(QUANTITIES), st.sampled_from([1, 64, 1000]))
@settings(max_examples=25)
def test_the_result_agrees_within_the_bounds_or_is_refused(
    a: Spec, b: Spec, on: Quantity, context: int
):
    goal = measures(a, context).of(on)
    found = matched_or_refused(a, b, on, context)
    if isinstance(found, str):
        assert f"the reference has {goal:,}" in found
        assert "the nearest is" in found
        assert abs(measures(b, context).of(on) - goal) > TOLERANCE * goal
        return
    assert found.after == measures(found.spec, context)
    assert abs(found.after.of(on) - goal) <= TOLERANCE * goal
    old, new = sizes(model_table(b)), sizes(model_table(found.spec))
    assert old.keys() == new.keys()
    assert {c.field: (c.old, c.new) for c in found.changes} == {
        k: (old[k], new[k]) for k in old if old[k] != new[k]
    }
    assert all(c.old / FACTOR <= c.new <= c.old * FACTOR for c in found.changes)
    assert match(a, b, on, context) == found


@given(models(), st.sampled_from(QUANTITIES))
@settings(max_examples=10)
def test_a_model_matched_with_itself_is_itself(model: Spec, on: Quantity):
    found = match(model, model, on, 100, tolerance=0.0)
    assert (found.spec, found.changes) == (model, ())
    assert found.before == found.after == found.reference


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_model_of_the_laws_finds_its_way_back_to_its_own_size(name: str):
    """A model that the solver resized by hand is matched to its original again."""
    original = ALL[name]
    table = model_table(original)
    for letter in table["mixers"].values():
        letter |= {k: v + 1 for k, v in letter.items() if k == "d_ff"}
    found = match(original, Spec.of(table), "params", 64, tolerance=0.02)
    assert abs(found.after.n_params / measures(original, 64).n_params - 1) <= 0.02


@given(st.integers(20, 400), st.integers(20, 400))
@settings(max_examples=8)
def test_of_equal_steps_the_smallest_change_of_d_ff_is_taken(ours: int, theirs: int):
    a, b = (spec("*-M-", mixers={"-": {"d_ff": n}}) for n in (ours, theirs))
    goal = measures(a, 64).n_params

    def agrees(d_ff: int) -> bool:
        other = spec("*-M-", mixers={"-": {"d_ff": d_ff}})
        return abs(measures(other, 64).n_params - goal) <= TOLERANCE * goal

    allowed = range(math.ceil(theirs / 2), 2 * theirs + 1)
    good = [n for n in allowed if agrees(n)]
    for step in (64, 8, 1):
        stepped = [n for n in good if n % step == 0]
        if stepped:
            break
    if agrees(theirs) or not stepped:
        return
    found = match(a, b, "params", 64)
    nearest = min(stepped, key=lambda n: abs(math.log(n / theirs)))
    assert [(c.field, c.new) for c in found.changes] == [("mixers.-.d_ff", nearest)]


WIDE = Spec.of({"pattern": "*", "d_model": 448, "mixers": {"*": {"n_heads": 4, "head_dim": 64}}})


class TestOrder:
    def test_d_ff_goes_before_heads_and_heads_before_the_width(self):
        base = Spec.parse("M-*-", d_model=128)
        grown = match(Spec.parse("M-*-M-*-", d_model=128), base, "params", 64, factor=4.0)
        assert [c.field for c in grown.changes] == ["mixers.-.d_ff"]
        no_mlp = match(Spec.parse("M*M", d_model=128), Spec.parse("M*", d_model=128), "params", 64)
        assert {c.field.rpartition(".")[2] for c in no_mlp.changes} == {"n_heads", "n_kv_heads"}
        wide = match(WIDE, Spec.parse("*", d_model=256), "params", 64)
        assert [(c.field, c.new) for c in wide.changes] == [("d_model", 448)]

    def test_an_initial_std_at_its_default_follows_the_width(self):
        by_default = match(WIDE, Spec.parse("*", d_model=256), "params", 64).spec
        assert by_default.init_std == by_default.d_model**-0.5
        given_std = Spec.of({**model_table(Spec.parse("*", d_model=256)), "init_std": 0.02})
        assert match(WIDE, given_std, "params", 64).spec.init_std == 0.02

    def test_a_cache_is_matched_by_kv_heads_then_by_the_state(self):
        wide, grouped = (spec("*M-", mixers={"*": {"n_kv_heads": n, "n_heads": 8}}) for n in (4, 2))
        found = match(wide, grouped, "cache", 4096)
        assert [(c.field, c.new) for c in found.changes] == [("mixers.*.n_kv_heads", 4)]
        assert found.after.cache_bytes == found.reference.cache_bytes
        found = match(spec("MMM"), spec("MM"), "cache", 1, tolerance=0.05)
        assert [c.field for c in found.changes] == ["mixers.M.d_state"]

    def test_d_ff_never_changes_the_cache(self):
        for pattern in ("*-", "M-"):
            with pytest.raises(InputError, match="cache bytes cannot be matched"):
                match(spec(f"({pattern})9"), spec(pattern), "cache", 64)

    def test_a_joint_fusion_keeps_its_widths_equal(self):
        fusion = FUSIONS["normed mean (Hymba)"]
        fields = {"fusion": fusion, "mixers": {"M": {"n_heads": 4}, "*": {"n_heads": 4}}}
        found = match(
            spec("({M*})3", **fields), spec("({M*})2", **fields), "params", 64, tolerance=0.05
        )
        changed = {c.field: c.new for c in found.changes}
        assert changed["mixers.M.n_heads"] == changed["mixers.*.n_heads"] > 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"on": "time"}, "on = 'time': allowed are flops, params, cache"),
        ({"tolerance": 1.0}, "tolerance = 1: must be at least 0 and less than 1"),
        ({"tolerance": math.nan}, "tolerance = nan"),
        ({"factor": 0.5}, "factor = 0.5: must be between 1 and 64"),
        ({"context": 0}, "context = 0"),
        ({"factor": 1.0}, "the nearest is 1,600 .*nothing changed"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str):
    given = {"on": "params", "context": 64, **changes}
    small = Spec.of({"pattern": "-", "d_model": 16, "vocab_size": 31, "mixers": {"-": {"d_ff": 8}}})
    own = measures(small, 64).n_params
    with pytest.raises(InputError, match=message.replace("1,600", f"{own:,}")):
        match(spec("M-*-"), small, **given)

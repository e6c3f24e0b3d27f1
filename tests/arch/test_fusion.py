import re
from itertools import cycle, product
from pathlib import Path
from typing import NamedTuple, get_args

import pytest
import torch

from braidlm import laws
from braidlm.arch import Spec
from braidlm.arch.cost import cost
from braidlm.arch.fusion import ATTENDING, Combine, Fusion
from braidlm.errors import InputError
from braidlm.model import HybridLM

PAGE = (Path(__file__).parents[2] / "docs" / "fusion.md").read_text(encoding="utf-8")
D = 32
EQUAL = {
    "M": {"expand": 1, "head_dim": 16, "d_state": 4, "chunk_size": 4},
    "*": {"head_dim": 16},
    "-": {"d_ff": 32},
}
WIDER = EQUAL | {"M": {"expand": 2, "head_dim": 16, "d_state": 4, "chunk_size": 4}}
COMBINE = get_args(Combine)
CROSS = (
    None,
    {},
    {"query": "attention", "position": "rope"},
    {"query": "recurrent"},
    {"residual": True},
    {"residual": True, "head_dim": 8},
    {"query": "recurrent", "answer_residual": True},
    {"answer_residual": True},
    {"n_heads": 2, "n_kv_heads": 1, "head_dim": 8, "window": 3},
)
BRANCHES = (
    ("{M*}", EQUAL), ("{*M}", EQUAL), ("{M*}", WIDER), ("{MM}", EQUAL), ("{**}", EQUAL),
    ("{-*}", EQUAL), ("{M-}", WIDER), ("{MM*}", EQUAL), ("{M**}", WIDER),
)  # fmt: skip


def declare(pattern="{M*}", mixers=EQUAL, **fusion):
    return Spec.of(
        {"pattern": pattern, "d_model": D, "vocab_size": 8, "mixers": mixers, "fusion": fusion}
    )


class Case(NamedTuple):
    """One point of the product of all options."""

    combine: str
    projection: str
    scale: str
    gate: str | None
    cross: dict | None
    branches: tuple
    norm: str

    def declare(self):
        pattern, mixers = self.branches
        options = {k: v for k, v in self._asdict().items() if k != "branches" and v is not None}
        return declare(pattern, mixers, **options)

    @property
    def letters(self):
        return self.branches[0][1:-1]

    @property
    def is_equal(self):
        return (
            len({2 * D if x == "M" and self.branches[1] is WIDER else D for x in self.letters}) == 1
        )

    @property
    def attends(self):
        return self.combine in ATTENDING

    def given(self, field):
        return (self.cross or {}).get(field)


def cases(norms):
    options = (Fusion.model_fields[f].annotation for f in ("projection", "scale"))
    projection, scale = (get_args(x) for x in options)
    gate = (None, "channel", "token")
    return (Case(*c) for c in product(COMBINE, projection, scale, gate, CROSS, BRANCHES, norms))


REFUSALS = {
    "concat is always joint": lambda c: c.combine == "concat" and c.projection == "separate",
    "has one output projection of its own": lambda c: c.attends and c.projection == "separate",
    "projection = 'joint': needs branches of equal width": lambda c: (
        c.combine in ("mean", "add", "subtract", "gate")
        and c.projection == "joint"
        and not c.is_equal
    ),
    "combine = 'merge_attention': needs branches of equal width": lambda c: (
        c.combine == "merge_attention" and not c.is_equal
    ),
    "takes two branches, not 3": lambda c: (
        len(c.letters) > 2 and c.combine not in ("mean", "add", "concat")
    ),
    "weighs the second of two branches": lambda c: len(c.letters) > 2 and c.scale == "scalar",
    "needs one attention and one recurrent branch": lambda c: (
        c.combine == "cross_attention" and sorted(c.letters) != ["*", "M"]
    ),
    "needs a parallel sublayer with an attention": lambda c: (
        c.combine == "cross_attention" and "*" not in c.letters
    ),
    "this field is required": lambda c: (
        c.combine == "merge_attention" and "*" not in c.letters and not c.given("n_kv_heads")
    ),
    "cross: belongs only to": lambda c: c.cross is not None and not c.attends,
    "in merge_attention the mean of both branches asks": lambda c: (
        c.combine == "merge_attention" and c.given("query") is not None
    ),
    "in merge_attention both branches answer": lambda c: (
        c.combine == "merge_attention" and c.given("answer_residual") is not None
    ),
    "cross.residual = true: needs": lambda c: (
        c.attends
        and c.given("residual") is not None
        and (c.given("head_dim") == 8 or asking_width(c) != D)
    ),
    "cross.answer_residual = true: needs": lambda c: (
        c.combine == "cross_attention"
        and c.given("answer_residual") is not None
        and c.given("query") is None
        and c.branches[1] is WIDER
    ),
    "belongs only to combine = 'gate'": lambda c: c.gate is not None and c.combine != "gate",
}
"""What each message of the page is about, written a second time."""


def asking_width(case):
    """The asking stream's width where it is one of two branches; the attention branch's is D."""
    asks_ssm = case.combine == "merge_attention" or case.given("query") == "recurrent"
    return 2 * D if asks_ssm and case.branches[1] is WIDER else D


def why_refused(case):
    """What the declaration says against this case, or None."""
    try:
        case.declare()
    except InputError as error:
        return str(error)
    return None


def test_the_whole_product_is_legal_or_refused_with_a_reason_of_the_page():
    n_legal, seen = 0, set()
    for case in cases(("rms",)):
        reasons = {says for says, applies in REFUSALS.items() if applies(case)}
        message = why_refused(case)
        said = {says for says in reasons if says in (message or "")}
        assert bool(said) == bool(reasons) == (message is not None), (case, reasons, message)
        seen |= said
        n_legal += message is None
    assert seen == set(REFUSALS)
    assert n_legal > 100


def rows(title):
    """The rows of the page's table whose first column is called so."""
    table = re.search(rf"^\| {title} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.M)
    assert table is not None
    return [[x.strip() for x in line.strip("|").split(" | ")] for line in table[1].splitlines()]


def test_the_page_gives_every_reason_in_the_words_of_its_message():
    assert [row[2].rstrip(" |").strip("`") for row in rows("refused")] == list(REFUSALS)


def test_the_page_says_which_projections_and_how_many_branches_each_operator_takes():
    table = {row[0].strip("`"): row[1:] for row in rows("combine")}
    assert tuple(table) == COMBINE
    for combine, (separate, joint, branches) in table.items():
        assert is_legal(combine, "joint", ("{M*}", EQUAL))
        assert is_legal(combine, "separate", ("{M*}", EQUAL)) == (separate != "refused")
        assert is_legal(combine, "joint", ("{MM*}", EQUAL)) == branches.startswith("2 or more")
        assert is_legal(combine, "joint", ("{M*}", WIDER)) == ("equal widths" not in joint)


def is_legal(combine, projection, branches):
    return why_refused(Case(combine, projection, "none", None, None, branches, "rms")) is None


def check_laws(case):
    """Steps are the full forward, packed is separate, and every gradient is finite."""
    torch.manual_seed(0)
    model = HybridLM(case.declare()).double()
    tokens = torch.arange(9) % 8
    assert laws.stepped(model, tokens, 4).outputs < 1e-10, case
    found = laws.packed(model, tokens, [(4, 5)])
    assert max(found.outputs, found.gradients, found.states) < 1e-10, case
    model(tokens[None]).hidden.square().sum().backward()
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        assert grad is not None, (case, name)
        assert bool(grad.isfinite().all()), (case, name)
        assert name == "embedding.weight" or float(grad.abs().max()) > 0, (case, name)


def legal(norms):
    return [c for c in cases(norms) if not any(applies(c) for applies in REFUSALS.values())]


def test_what_is_legal_runs_and_keeps_the_laws():
    for case in legal(("group",)):
        if (case.scale, case.branches) == ("none", BRANCHES[0]) and not case.given("n_heads"):
            check_laws(case)


@pytest.mark.slow
def test_all_that_is_legal_runs_and_keeps_the_laws():
    """Each norm in turn: the norm acts before, and apart from, everything else."""
    for case, norm in zip(legal(("rms",)), cycle(("none", "rms", "group"))):
        check_laws(case._replace(norm=norm))


@pytest.mark.parametrize("norm", ["none", "rms", "group"])
def test_every_norm_goes_with_all_that_is_legal(norm):
    for case in legal((norm,)):
        fusion = case.declare().fusion
        assert (fusion.norm, fusion.scale) == (norm, case.scale)


@pytest.mark.parametrize("combine", ["concat", "cross_attention", "merge_attention"])
def test_a_projection_that_has_one_legal_value_need_not_be_given(combine):
    assert declare(combine=combine).fusion.projection == "joint"


def test_a_cross_attention_has_the_shape_of_the_attention_branch_unless_told():
    mixers = {"*": {"head_dim": 8, "n_heads": 6, "n_kv_heads": 3}}
    cross = declare(mixers=mixers, combine="cross_attention").fusion.cross
    assert cross is not None
    assert (cross.n_heads, cross.n_kv_heads, cross.head_dim, cross.residual) == (6, 3, 8, False)
    fusion = declare(mixers=mixers, combine="cross_attention", cross={"n_kv_heads": 1}).fusion
    assert fusion.cross is not None
    assert (fusion.cross.n_heads, fusion.cross.n_kv_heads) == (6, 1)


def test_the_attention_branch_asks_wherever_it_stands():
    for pattern, roles in (("{M*}", (1, 0)), ("{*M}", (0, 1))):
        sublayer = declare(pattern, combine="cross_attention").sublayers[0]
        assert sublayer.fusion is not None
        assert sublayer.fusion.roles(sublayer.branches) == roles


@pytest.mark.parametrize(
    ("pattern", "mixers", "fusion", "message"),
    [
        ("{MM}", EQUAL, {"combine": "cross_attention"}, "needs a parallel sublayer with an att"),
        ("{-*}", {"*": {"head_dim": 16}}, {"combine": "cross_attention"},
         "sublayer 0 ({-*}): combine = 'cross_attention': needs one attention and one recurrent"),
        ("{M*}", EQUAL, {"combine": "mean", "cross": {"n_heads": 2}}, "belongs only to combine"),
        ("{M*}", EQUAL, {"combine": "cross_attention", "cross": 3}, "fusion.cross = 3"),
        ("{M*}", EQUAL, {"combine": "cross_attention", "cross": {"head": 3}}, "unknown field"),
        ("{M*}", EQUAL, {"combine": "cross_attention", "cross": {"n_kv_heads": 3}},
         "n_kv_heads = 3: must divide n_heads = 2"),
        ("{M*}", EQUAL,
         {"combine": "cross_attention", "cross": {"residual": True, "head_dim": 8}},
         "cross.residual = true: needs the querying branch's width 32 to equal"),
        ("{M*}", EQUAL, {"combine": "cross_attention", "cross": {"query": "both"}},
         "fusion.cross.query = 'both': input should be 'attention' or 'recurrent'"),
        ("{M*}", EQUAL,
         {"combine": "merge_attention", "cross": {"position": "rope", "head_dim": 3}},
         "head_dim = 3: must be even for position = 'rope'"),
        ("{M*}", EQUAL, {"combine": "cross_attention", "cross": {"rope_theta": 0.0}},
         "fusion.cross.rope_theta = 0.0"),
        ("{M*}", EQUAL, {"combine": "cross_attention", "cross": {"n_sinks": 2}},
         "fusion.cross: n_sinks = 2: needs a window"),
        ("{M*}", EQUAL, {"combine": "cross_attention", "cross": {"window": 4, "n_sinks": -1}},
         "fusion.cross.n_sinks = -1: input should be greater than or equal to 0"),
        ("{M*}", EQUAL, {"combine": "cross_attention", "cross": {"window": 0}},
         "fusion.cross.window = 0: input should be greater than 0"),
        ("{M*}", EQUAL, {"combine": "gate", "gate": "head"}, "fusion.gate = 'head': input should"),
        ("{M*}", EQUAL, {"combine": "gates"}, "fusion.combine = 'gates': input should be 'mean'"),
        ("{M*}", EQUAL, {"norm": "layer"}, "fusion.norm = 'layer'"),
        ("{M*}", EQUAL, {"scale": 1.0}, "fusion.scale = 1.0"),
    ],
)  # fmt: skip
def test_other_refusals(pattern, mixers, fusion, message):
    with pytest.raises(InputError, match=re.escape(message)):
        declare(pattern, mixers, **fusion)


def fusion_params(**fusion):
    """Parameters beyond the branches' own and the sublayer's norm, widths 64 and 32, d_model 32."""
    spec = declare(mixers=WIDER, **fusion)
    own = sum(b.n_params(D) for b in spec.sublayers[0].branches)
    return cost(spec, 1).block_params - own - D


def test_parameters_by_hand():
    assert fusion_params(norm="none", combine="mean") == (64 + 32) * 32
    assert fusion_params(norm="rms", combine="add") == (64 + 32) * 32 + 96
    assert fusion_params(norm="group", scale="learned", combine="subtract") == 96 * 32 + 192
    assert fusion_params(norm="none", combine="concat") == 96 * 32
    # q 32 x 32, k and v 64 x (2 * 32), o 32 x 32
    assert fusion_params(norm="none", combine="cross_attention") == 1024 + 64 * 64 + 1024
    # the other way round: q 64 x 32, k and v 32 x (2 * 32), o 32 x 32
    reverse = {"query": "recurrent", "position": "rope"}
    assert fusion_params(norm="none", combine="cross_attention", cross=reverse) == 5 * 1024
    assert fusion_params(norm="none", combine="gate") == 96 * 32 + 32 * 32 + 32
    assert fusion_params(norm="none", combine="gate", gate="token") == 96 * 32 + 32 + 1
    assert fusion_params(norm="none", combine="add", scale="scalar") == 96 * 32 + 1
    assert equal_params(combine="mean", projection="joint") == 32 * 32
    assert equal_params(combine="gate", projection="joint") == 32 * 32 + 32 * 32 + 32
    assert equal_params(combine="gate", projection="joint", gate="token") == 32 * 32 + 32 + 1
    # q, k, v and o of 32 x 32 each, whatever the number of streams
    assert equal_params(combine="merge_attention") == 4 * 1024


def equal_params(**fusion):
    spec = declare(norm="none", **fusion)
    own = sum(b.n_params(D) for b in spec.sublayers[0].branches)
    return cost(spec, 1).block_params - own - D


def test_one_function_class_has_one_cost():
    arms = [
        declare(mixers=WIDER, combine="concat"),
        declare(mixers=WIDER, combine="add"),
        declare(mixers=WIDER, combine="subtract"),
    ]
    costs = [cost(spec, 100) for spec in arms]
    assert len({(c.n_params, c.model_flops, c.cache_bytes) for c in costs}) == 1


def test_a_cross_attention_pays_for_its_cache_and_its_pairs():
    mean, cross = (cost(declare(combine=c), 10) for c in ("mean", "cross_attention"))
    assert mean.kv_bytes_per_token == 2 * 2 * 32
    assert cross.kv_bytes_per_token == 2 * mean.kv_bytes_per_token
    matrices = (32 * 32 + 32 * 64 + 32 * 32) - 2 * 32 * 32
    assert cross.model_flops - mean.model_flops == 2 * 10 * matrices + 10 * 11 * 2 * (16 + 16)


def test_a_merge_attention_pays_for_two_streams():
    mean, merge = (cost(declare(combine=c), 10) for c in ("mean", "merge_attention"))
    assert mean.kv_bytes_per_token == 2 * 2 * 32
    assert merge.kv_bytes_per_token == 3 * mean.kv_bytes_per_token
    narrow = cost(declare(combine="merge_attention", cross={"n_kv_heads": 1, "head_dim": 8}), 10)
    assert narrow.kv_bytes_per_token == mean.kv_bytes_per_token + 2 * 2 * (8 + 8)
    matrices = 32 * 32 + 2 * (32 * 64) + 32 * 32 - 2 * 32 * 32
    pairs = 2 * (10 * 11 // 2)
    assert merge.model_flops - mean.model_flops == 2 * 10 * matrices + pairs * 2 * 2 * (16 + 16)
    last = 2 * matrices + 2 * 10 * 2 * 2 * (16 + 16)
    assert merge.decode_flops - mean.decode_flops == last


@pytest.mark.parametrize(("combine", "streams"), [("cross_attention", 1), ("merge_attention", 2)])
def test_a_window_bounds_the_cache_and_the_pairs(combine, streams):
    mean = declare(combine="mean")
    spec = declare(combine=combine, cross={"window": 4})
    own = [cost(spec, n).cache_bytes - cost(mean, n).cache_bytes for n in (3, 4, 5, 100)]
    assert own == [streams * n * 2 * (32 + 32) for n in (3, 4, 4, 4)]
    pairs = 1 + 2 + 3 + 4 * 97
    whole = cost(declare(combine=combine), 100).model_flops - cost(spec, 100).model_flops
    assert whole == streams * (100 * 101 // 2 - pairs) * 2 * 2 * (16 + 16)


@pytest.mark.parametrize(("combine", "streams"), [("cross_attention", 1), ("merge_attention", 2)])
def test_sinks_are_held_and_seen_beside_a_window(combine, streams):
    mean = declare(combine="mean")
    spec = declare(combine=combine, cross={"window": 4, "n_sinks": 3})
    own = [cost(spec, n).cache_bytes - cost(mean, n).cache_bytes for n in (6, 7, 8, 100)]
    assert own == [streams * n * 2 * (32 + 32) for n in (6, 7, 7, 7)]
    pairs = 7 * 8 // 2 + 7 * 93
    whole = cost(declare(combine=combine), 100).model_flops - cost(spec, 100).model_flops
    assert whole == streams * (100 * 101 // 2 - pairs) * 2 * 2 * (16 + 16)


def test_a_gate_pays_for_its_matrix_alone():
    mean, channel = (cost(declare(combine=c), 10) for c in ("mean", "gate"))
    token = cost(declare(combine="gate", gate="token"), 10)
    assert channel.model_flops - mean.model_flops == 10 * 2 * 32 * 32
    assert token.model_flops - mean.model_flops == 10 * 2 * 32
    assert channel.cache_bytes == token.cache_bytes == mean.cache_bytes

"""Context extension: the weights stay, positions and windows change as declared and no more."""

import math
import shutil

import pytest
import torch

from braidlm import checkpoint, interop
from braidlm.arch import Recipe, Spec
from braidlm.arch.init_changes import InitChanges, changed, told
from braidlm.errors import InputError
from braidlm.files import read_json
from braidlm.model import HybridLM
from braidlm.runs import Run
from braidlm.train import train
from braidlm.train.start import INIT, load_recipe, open_start, start_of

from .test_loop import Stopping, assert_same_run, rows

HEADS = {"kind": "attention", "n_heads": 2, "head_dim": 8}
MODEL = {
    "pattern": "*-W",
    "d_model": 16,
    "vocab_size": 32,
    "mixers": {"*": HEADS, "W": HEADS | {"window": 4}},
}


def recipe(**parts) -> Recipe:
    source = {"kind": "mqar", "vocab_size": 32, "n_pairs": [2], "length": 12}
    plain = {
        "seed": 3,
        "model": MODEL,
        "data": {"seq_len": 24, "sources": [source]},
        "train": {"steps": 3, "batch_size": 2, "log_every": 1, "device": "cpu"},
    }
    plain["train"]["precision"] = "fp32"
    return Recipe.from_dict(plain | parts)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    train(recipe(), folder)
    return folder


def by_hand(model: HybridLM, tokens, base: float | None, window: int | None):
    """Logits (T, vocab) of a model "*": one loop over queries, rotations as complex numbers."""
    weights = {name: t.double() for name, t in model.state_dict().items()}

    def norm(x, name):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weights[name]

    hidden = weights["embedding.weight"][tokens]
    x = norm(hidden, "blocks.0.norm.weight") @ weights["blocks.0.mix.mixer.in_proj.weight"].T
    q, k, v = (part.unflatten(-1, (2, 8)) for part in x.split(16, dim=-1))
    out = torch.zeros_like(q)
    for head in range(2):
        for t in range(len(tokens)):
            first = 0 if window is None else max(0, t - window + 1)
            scores = []
            for s in range(first, t + 1):
                a, b = (torch.complex(z[..., :4], z[..., 4:]) for z in (q[t, head], k[s, head]))
                if base is not None:
                    angle = (t - s) * base ** (-torch.arange(4, dtype=torch.float64) / 4)
                    a = a * torch.exp(1j * angle)
                scores.append((a * b.conj()).real.sum() / math.sqrt(8))
            share = torch.stack(scores).softmax(0)
            out[t, head] = share @ v[first : t + 1, head]
    hidden = hidden + out.flatten(1) @ weights["blocks.0.mix.out_proj.weight"].T
    return norm(hidden, "norm.weight") @ weights["embedding.weight"].T


@pytest.mark.parametrize(
    ("change", "base", "window"),
    [
        ({}, 10_000.0, 6),
        ({"position": "none"}, None, 6),
        ({"rope_theta": 50.0}, 50.0, 6),
        ({"rope_theta": 50.0, "window": 9}, 50.0, 9),
        ({"rope_scaling": {"kind": "linear", "factor": 4.0}}, "divided", 6),
    ],
)
def test_the_changed_model_is_the_function_that_was_worked_out_by_hand(
    tmp_path, change, base, window
):
    heads = HEADS | {"window": 6}
    spec = {"pattern": "*", "d_model": 16, "vocab_size": 32, "mixers": {"*": heads}}
    train(recipe(model=spec), tmp_path / "run")
    declared = recipe(
        model=spec, init=str(tmp_path / "run"), init_changes={"mixers": {"*": change}}
    )
    start = start_of(declared, tmp_path / "next")
    assert start is not None
    model = start.model(start.settled(declared).spec).double()
    tokens = torch.arange(14) * 5 % 32
    with torch.no_grad():
        found = model.head(model(tokens[None]).hidden)[0]
        if base == "divided":  # positions over 4 are those of every fourth token
            thin = by_hand_divided(model, tokens)
            assert torch.allclose(found, thin, atol=1e-6)
            return
        assert torch.allclose(found, by_hand(model, tokens, base, window), atol=1e-6)
        other = by_hand(model, tokens, 10_000.0, 6)
    assert (found - other).abs().max() > 1e-3 or not change


def by_hand_divided(model, tokens):
    """Angles over 4 with base b are angles of (b^(-i/4) / 4): no base gives them, so patch it."""
    weights = model.blocks[0].mix.mixer
    plain = HybridLM(Spec.of({**MODEL, "pattern": "*", "mixers": {"*": HEADS | {"window": 6}}}))
    plain.load_state_dict(model.state_dict())
    frequencies = 10_000.0 ** (-torch.arange(4, dtype=torch.float64) / 4) / 4
    assert torch.allclose(weights.inv_freq, frequencies)
    plain = plain.double()
    plain.blocks[0].mix.mixer.inv_freq = frequencies  # pyright: ignore[reportAttributeAccessIssue]
    return plain.head(plain(tokens[None]).hidden)[0]


def declaring(init, changes, **parts) -> Recipe:
    longer = recipe().to_dict()["data"] | {"seq_len": 48}
    return recipe(init=str(init), init_changes=changes, data=longer, **parts)


CHANGES = {"mixers": {"*": {"rope_theta": 5e5}, "W": {"position": "none", "window": 8}}}
DONE = [
    {"field": "mixers.*.rope_theta", "from": 10_000.0, "to": 5e5},
    {"field": "mixers.W.position", "from": "rope", "to": "none"},
    {"field": "mixers.W.window", "from": 4, "to": 8},
]


def test_a_run_keeps_both_models_and_what_lies_between(pretrained, tmp_path):
    train(declaring(pretrained, CHANGES), tmp_path / "run")
    after, before = (checkpoint.load_model(tmp_path / name)[0] for name in ("run", "run/init"))
    assert Run.open(tmp_path / "run").origin["changes"] == DONE
    assert told(before.spec, after.spec) == DONE
    assert before.spec == recipe().spec
    stored = Recipe.from_dict(read_json(tmp_path / "run" / "config.json"))
    assert stored.spec == after.spec
    # The loss of update 1 is that of the changed model with the weights as they were.
    start = open_start(str(pretrained)).model(after.spec)
    from braidlm.train.loop import build_mixture

    batch = build_mixture(declaring(pretrained, CHANGES)).batch(0)
    with torch.no_grad():
        loss = float(start.loss(batch.tokens, batch.targets, batch.segments))
    assert rows(tmp_path / "run")[0]["loss"] == pytest.approx(loss, rel=1e-6)


def test_it_resumes_without_its_init_and_is_a_start_itself(pretrained, tmp_path):
    init = shutil.copytree(pretrained, tmp_path / "init")
    config = declaring(init, CHANGES)
    train(config, tmp_path / "whole")
    train(config, tmp_path / "parts", mixture=Stopping(config, 1))
    shutil.rmtree(init)
    train(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    # A second extension begins where the first ended.
    again = {"mixers": {"*": {"rope_theta": 1e6}}}
    bare = tmp_path / "bare.toml"
    bare.write_text(
        '[data]\nseq_len = 24\n[[data.sources]]\nkind = "mqar"\nvocab_size = 32\nlength = 24\n'
        'n_pairs = [2]\n[init_changes.mixers."*"]\nrope_theta = 1e6\n'
        '[train]\nsteps = 1\nprecision = "fp32"\ndevice = "cpu"\n'
    )
    second = load_recipe(bare, ["train.batch_size=2"], str(tmp_path / "whole"))
    assert second.init_changes == InitChanges.of(again)
    train(second, tmp_path / "second")
    found = checkpoint.load_model(tmp_path / "second")[0].spec
    assert found == changed(checkpoint.load_model(tmp_path / "whole")[0].spec, second.init_changes)
    assert Run.open(tmp_path / "second").origin["changes"][0]["from"] == 5e5


def test_the_model_may_be_declared_as_it_was_or_as_it_becomes(pretrained, tmp_path):
    became = changed(recipe().spec, InitChanges.of(CHANGES)).model_dump(mode="json")
    for name, parts in (("was", {}), ("becomes", {"model": became})):
        train(declaring(pretrained, CHANGES, **parts), tmp_path / name)
    assert_same_run(tmp_path / "was", tmp_path / "becomes")
    with pytest.raises(InputError, match=r"model\.mixers\..*may change by \[init_changes\]"):
        train(recipe(init=str(pretrained), model=became), tmp_path / "undeclared")
    half = {"mixers": {"*": {"rope_theta": 5e5}}}
    with pytest.raises(InputError, match=r"model\.mixers\.2\.mixer\.\w+ = .*: must be"):
        train(declaring(pretrained, half, model=became), tmp_path / "undeclared")


def test_a_folder_of_transformers_may_be_changed_too(pretrained, tmp_path):
    interop.export_run(pretrained, tmp_path / "hf", format="braid-hf")
    train(declaring(tmp_path / "hf", CHANGES), tmp_path / "run")
    train(declaring(pretrained, CHANGES), tmp_path / "ours")
    assert rows(tmp_path / "run") == rows(tmp_path / "ours")


@pytest.mark.parametrize(
    ("pattern", "fusion", "change"),
    [
        ("{M*}-", {"combine": "cross_attention"}, {"fusion": {"position": "rope"}}),
        ("+-", {}, {"mixers": {"+": {"position": "none"}}}),
        ("*-", {}, {"mixers": {"*": {"position_scale": {"length": 16.0}}}}),
        ("*-", {}, {"mixers": {"*": {"rope_scaling": {"kind": "yarn", "factor": 4.0}}}}),
        ("*-", {}, {"mixers": {"*": {"window": 8, "n_sinks": 1}}}),
        ("B-", {}, {"mixers": {"B": {"window": 8, "rope_theta": 99.0}}}),
    ],
)
def test_every_change_leaves_names_and_shapes_of_all_weights(pattern, fusion, change):
    own = {"mixers": {"B": {"kind": "bmojo_f"}}} if "B" in pattern else {}
    spec = Spec.of({"pattern": pattern, "d_model": 64, "vocab_size": 32, "fusion": fusion, **own})
    after = changed(spec, InitChanges.of(change))
    assert told(spec, after)
    before, model = HybridLM(spec), HybridLM(after)
    shapes = [{n: t.shape for n, t in m.state_dict().items()} for m in (before, model)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mixers": {"M": {"position": "none"}}}, r"mixers\.M: .* no such letter; allowed: \*, -"),
        ({"mixers": {"-": {"window": 3}}}, r"mixers\.-\.window: 'mlp' has no .*change: nothing"),
        ({"mixers": {"*": {"n_heads": 3}}}, r"unknown field 'n_heads'.*allowed: position"),
        ({"mixers": {"*": {"n_sinks": 3}}}, r"init_changes: .*needs a window"),
        ({"mixers": {"*": 3}}, r"mixers\.\* = 3: must be a table of fields"),
        ({"mixers": {"*": {"rope_theta": -1.0}}}, r"rope_theta = -1\.0: .*greater than 0"),
        ({"fusion": {"window": 3}}, r"fusion: combine = '\w+' has no attention of its own"),
        ({"parallel": {"P": {"window": 3}}}, r"parallel\.P: .*allowed: none is declared"),
        ({"mixer": {}}, r"init_changes: unknown field 'mixer' \(did you mean 'mixers'\?\)"),
    ],
)
def test_what_cannot_change_is_refused_by_name(pretrained, tmp_path, changes, says):
    with pytest.raises(InputError, match=says):
        train(declaring(pretrained, changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_changes_without_an_init_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"\[init_changes\]: needs an init"):
        train(recipe(init_changes=CHANGES), tmp_path / "run")


def test_the_run_inside_keeps_its_name(pretrained, tmp_path):
    train(declaring(pretrained, CHANGES), tmp_path / "run")
    kept = read_json(tmp_path / "run" / INIT / "config.json")
    assert "init_changes" not in kept
    assert kept["data"]["seq_len"] == 48

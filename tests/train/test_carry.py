"""Carried states: segments are one long document, the graph is cut between them, and stops leave
no trace."""

import signal
from itertools import pairwise
from typing import Any

import pytest
import torch

from braidlm.arch import Recipe
from braidlm.data.lanes import LaneMixture
from braidlm.errors import InputError
from braidlm.model import HybridLM
from braidlm.segments import Segments
from braidlm.train import train
from braidlm.train.carry import Carry
from braidlm.train.loop import build_mixture
from braidlm.train.precision import Precision
from braidlm.train.recompute import recomputed
from braidlm.train.routers import Routers
from braidlm.train.step import Place, accumulate
from tests.specs import ALL, ATTENTION, spec

from .test_loop import assert_same_run, rows

FP32 = Precision("fp32", "cpu", "")
T = 5
LANES = [[13, 4, 9], [3, 20, 1, 6]]
"""Lengths of the documents that each lane reads."""
CARRIED = {name: s for name, s in ALL.items() if not s.n_meta_tokens}


def model_of(declared, seed=0) -> HybridLM:
    torch.manual_seed(seed)
    return HybridLM(declared).double().train()


class Reading:
    """Lanes of random documents of random tokens, in segments of T."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        lanes = [[torch.randint(31, (n + 1,), generator=generator) for n in lane] for lane in LANES]
        self.documents = lanes
        self.n_steps = min(sum(lane) for lane in LANES) // T

    def step(self, step: int):
        """tokens, targets (2, T), segments, continues (2,) of a step."""
        tokens, targets, ids, continues = [], [], [], []
        for lane in self.documents:
            stream = [(d, i) for d, text in enumerate(lane) for i in range(len(text) - 1)]
            here = stream[step * T : (step + 1) * T]
            tokens.append([int(lane[d][i]) for d, i in here])
            targets.append([int(lane[d][i + 1]) for d, i in here])
            ids.append([d for d, _ in here])
            continues.append(here[0][1] > 0)
        segments = Segments.from_doc_ids(torch.tensor(ids))
        return torch.tensor(tokens), torch.tensor(targets), segments, torch.tensor(continues)

    def alone(self, model: HybridLM) -> list[torch.Tensor]:
        """The loss of every token of each lane, each document read by itself in one call."""
        return [
            torch.cat([model.loss(t[None, :-1], t[None, 1:], reduction="none")[0] for t in lane])
            for lane in self.documents
        ]


@pytest.mark.slow
@pytest.mark.parametrize("name", CARRIED)
def test_segments_of_every_model_are_one_long_document(name):
    check_outputs(model_of(CARRIED[name]))


def check_outputs(model: HybridLM) -> None:
    reading = Reading()
    carry = Carry(model)
    found = []
    for step in range(reading.n_steps):
        tokens, targets, segments, on = reading.step(step)
        found.append(carry.loss(0, tokens, targets, segments, on, "none").detach())
    with torch.no_grad():
        for lane, wanted in zip(torch.cat(found, dim=1), reading.alone(model), strict=True):
            assert torch.allclose(lane, wanted[: len(lane)], rtol=1e-9, atol=1e-10)


def gradients(model) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def cut_by_hand(model: HybridLM, reading: Reading, step: int) -> dict[str, torch.Tensor]:
    """Gradients of a step's loss, one token at a time: before the segment without a graph."""
    first, last = step * T, (step + 1) * T
    total = torch.zeros((), dtype=torch.float64)
    for lane in reading.documents:
        at = 0
        for text in lane:
            memory = None
            for token, target in pairwise(text):
                if at >= last:
                    break
                with torch.set_grad_enabled(at >= first):
                    out = model(token.view(1, 1), state=memory)
                memory = out.state
                if at >= first:
                    logits = model.head(out.hidden)[0, 0]
                    total = total - logits.log_softmax(0)[target]
                at += 1
    total.backward()
    return gradients(model)


CUT = {
    "mamba2": spec("M-"),
    "mamba1, delta": spec("SG"),
    "kda, latent attention": spec("K+", mixers={"K": {"kind": "kda"}}),
    "attention, window": spec("*W", mixers={"W": {**ATTENTION, "window": 4, "n_sinks": 1}}),
    "parallel, experts": spec("{M*}E"),
    "cross attention": spec("{M*}", fusion={"combine": "cross_attention"}),
    "shared, tied to the embedding": spec(
        "AMA", mixers={"A": {**ATTENTION, "kind": "attention", "shared": True}}
    ),
}


@pytest.mark.parametrize("name", CUT)
def test_segments_with_carried_states_are_one_long_document(name):
    check_outputs(model_of(CUT[name]))


@pytest.mark.parametrize("name", CUT)
def test_gradients_are_those_of_one_document_with_the_graph_cut_between_segments(name):
    model, reading = model_of(CUT[name]), Reading()
    carry = Carry(model)
    has_memory = False
    for step in range(reading.n_steps):
        tokens, targets, segments, on = reading.step(step)
        carry.loss(0, tokens, targets, segments, on, "sum").backward()
        found = gradients(model)
        wanted = cut_by_hand(model, reading, step)
        assert found.keys() == wanted.keys()
        for key, gradient in wanted.items():
            assert torch.allclose(found[key], gradient, rtol=1e-8, atol=1e-11), (step, key)
        model.loss(tokens, targets, segments, reduction="sum").backward()
        forgetful = gradients(model)
        gap = max(float((forgetful[k] - g).abs().max()) for k, g in wanted.items())
        has_memory |= gap > 1e-3  # what carrying changes is far above the tolerance
    assert has_memory


@pytest.mark.parametrize("n_tokens", [0, 1, 3, 7])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"position": "none"},
        {"rope_fraction": 0.5},
        {"rope_scaling": {"kind": "yarn", "factor": 4.0, "original_length": 16}},
        {"sink_logit": True, "softcap": 2.0},
    ],
)
def test_full_attention_keeps_the_last_tokens_and_no_more(n_tokens, fields):
    """One layer, so that a token's key is of the token alone: a segment sees n before it."""
    model = model_of(spec("*", mixers={"*": fields}))
    text = torch.randint(31, (18,), generator=torch.Generator().manual_seed(2))
    carry = Carry(model, n_tokens)
    with torch.no_grad():
        for step in range(3):
            here = slice(step * T, (step + 1) * T)
            segments = Segments.from_lengths([[T]])
            on = torch.tensor([step > 0])
            targets = text[here.start + 1 : here.stop + 1][None]
            with torch.enable_grad():
                found = carry.loss(0, text[here][None], targets, segments, on, "none")
            first = max(0, here.start - n_tokens)
            seen, follows = text[first : here.stop], text[first + 1 : here.stop + 1]
            wanted = model.loss(seen[None], follows[None], reduction="none")[:, -T:]
            assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-11)
            cache = carry.states[0][0]
            assert cache.k.shape[1] == max(1, min(n_tokens, here.stop))
            assert cache.length.tolist() == [min(n_tokens, here.stop)]


def recipe(folder, pattern="M-{MW}", **fields) -> Recipe:
    path = folder / "text.txt"
    if not path.exists():
        generator = torch.Generator().manual_seed(3)
        sizes = torch.randint(5, 90, (12,), generator=generator).tolist()
        letters = [torch.randint(97, 105, (n,), generator=generator).tolist() for n in sizes]
        path.write_text("\n".join("".join(map(chr, line)) for line in letters))
    plain: dict[str, Any] = {
        "model": {
            "pattern": pattern,
            "d_model": 16,
            "vocab_size": 300,
            "mixers": {"W": {"kind": "attention", "window": 12}},
        },
        "data": {
            "seq_len": 16,
            "held_out": 0.0,
            "cache_dir": str(folder / "cache"),
            "sources": [{"kind": "text", "path": str(path), "documents": "line"}],
        },
        "train": {
            "steps": 6,
            "batch_size": 4,
            "log_every": 1,
            "device": "cpu",
            "precision": "fp32",
            "carry_states": True,
        },
    }
    plain["train"] |= fields
    return Recipe.from_dict(plain)


def accumulated(config: Recipe, steps: int) -> dict[str, torch.Tensor]:
    """Gradients of the last of some steps without updates."""
    torch.manual_seed(0)
    model = HybridLM(config.spec).train()
    kv = config.train.carry_kv_tokens
    carry = Carry(model, kv if isinstance(kv, int) else None)
    mixture = build_mixture(config)
    found = {}
    with recomputed(model, config.train.activation_checkpointing):
        for step in range(steps):
            batch, place = mixture.batch(step), Place(torch.device("cpu"))
            micro = config.train.micro_batch_size
            routers = Routers(model)
            accumulate(model, batch, micro, FP32, place, 0, step, routers, carry=carry)
            found = gradients(model)
    return found


@pytest.mark.parametrize("pattern", ["M-{MW}", "G*-"])
def test_micro_batches_and_recomputing_change_nothing(tmp_path, pattern):
    fields = {"carry_kv_tokens": 9} if "*" in pattern else {}
    plain = accumulated(recipe(tmp_path, pattern, **fields), 3)
    again = accumulated(recipe(tmp_path, pattern, activation_checkpointing=1, **fields), 3)
    parts = accumulated(recipe(tmp_path, pattern, micro_batch_size=2, **fields), 3)
    for name, gradient in plain.items():
        assert torch.equal(gradient, again[name]), name
        assert torch.allclose(gradient, parts[name], rtol=1e-3, atol=1e-6), name
    assert len(plain) > 5


class Halting(LaneMixture):
    """A signal with the fourth batch."""

    def batch(self, step, start=0, stop=None):
        if step == 3:
            signal.raise_signal(signal.SIGINT)
        return super().batch(step, start, stop)


@pytest.mark.parametrize(
    ("pattern", "fields"),
    [("M-{MW}", {}), ("G*", {"carry_kv_tokens": 20}), ("*-", {"carry_kv_tokens": "all"})],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stopped_run_goes_on_with_its_states_bit_by_bit(tmp_path, pattern, fields, precision):
    config = recipe(tmp_path, pattern, micro_batch_size=2, **{"precision": precision, **fields})
    train(config, tmp_path / "whole")
    halting = Halting(config.data, batch_size=4, seed=config.seed)
    assert train(config, tmp_path / "parts", mixture=halting).step == 4
    train(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    begun = config.model_copy(update={"train": config.train.model_copy(update=FORGETFUL)})
    train(begun, tmp_path / "without", mixture=LaneMixture(config.data, batch_size=4))
    kept, lost = (rows(tmp_path / name) for name in ("whole", "without"))
    assert kept[0]["loss"] == pytest.approx(lost[0]["loss"], rel=1e-3)
    assert kept[1]["loss"] != lost[1]["loss"]


FORGETFUL = {"carry_states": False, "carry_kv_tokens": None}


@pytest.mark.parametrize(
    ("pattern", "fields", "says"),
    [
        ("M*", {}, r"letter '\*' sees every token of a document; say how many"),
        ("M+", {}, r"letter '\+' sees every token"),
        ("M+", {"carry_kv_tokens": 5}, r"carry_kv_tokens = 5: letter '\+' keeps latents"),
        ("M", {"carry_kv_tokens": -1}, r"carry_kv_tokens"),
        ("M", {"carry_states": False, "carry_kv_tokens": 3}, "needs carry_states = true"),
        ("M-", {"compile": True}, r"does not go with train\.compile"),
        ("M-", {"telemetry_every": 5}, r"does not go with train\.telemetry_every"),
    ],
)
def test_what_would_be_wrong_in_silence_is_refused(tmp_path, pattern, fields, says):
    with pytest.raises(InputError, match=says):
        recipe(tmp_path, pattern, **fields)


@pytest.mark.parametrize(
    ("part", "changes", "says"),
    [
        ("model", {"n_meta_tokens": 2}, r"does not go with model\.n_meta_tokens"),
        ("data", {"replay": {"fraction": 0.1}}, r"does not go with data\.replay"),
        (
            "data",
            {"sources": [{"kind": "mqar", "vocab_size": 32, "n_pairs": [2], "length": 16}]},
            "source 'mqar' is of kind 'mqar', whose items begin anew in every row; allowed: text",
        ),
    ],
)
def test_data_and_models_that_do_not_fit_are_refused(tmp_path, part, changes, says):
    plain = recipe(tmp_path).to_dict()
    plain[part] |= changes
    with pytest.raises(InputError, match=says):
        Recipe.from_dict(plain)


def test_fusions_and_positions_that_cannot_be_cut_are_refused(tmp_path):
    crossed = recipe(tmp_path).to_dict()["model"] | {"fusion": {"combine": "cross_attention"}}
    plain = recipe(tmp_path).to_dict() | {"model": crossed}
    with pytest.raises(InputError, match="fusion sees every token of a document"):
        Recipe.from_dict(plain)
    plain["train"]["carry_kv_tokens"] = 4
    with pytest.raises(InputError, match="fusion keeps its whole cache or none of it"):
        Recipe.from_dict(plain)
    plain["train"]["carry_kv_tokens"] = "all"
    Recipe.from_dict(plain)
    counted = {"pattern": "*", "d_model": 16, "vocab_size": 300}
    scale = {"kind": "attention", "position_scale": {"length": 8.0}}
    plain["model"] = counted | {"mixers": {"*": scale}}
    plain["train"]["carry_kv_tokens"] = 4
    with pytest.raises(InputError, match=r"letter '\*' counts its position in the whole document"):
        Recipe.from_dict(plain)


def test_a_model_of_ones_own_is_refused(tmp_path):
    from .tiny import TinyLM

    with pytest.raises(InputError, match=r"train\.carry_states = true: needs the recipe's own"):
        train(recipe(tmp_path), tmp_path / "run", model=TinyLM())


def test_states_of_another_model_are_refused():
    carry = Carry(model_of(spec("M-")))
    with pytest.raises(InputError, match="the carried states have 1 tensors, expected 2"):
        carry.load([[torch.zeros(1)]])

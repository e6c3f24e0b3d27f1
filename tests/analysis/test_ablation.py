"""Cuts of models whose answers come from one known place, and changes of the same size."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import braidlm.model
from braidlm.analysis import ablation
from braidlm.analysis.ablation import INSTRUMENT, loss, trial_of
from braidlm.analysis.cuts import branches_cut, jolted, layers_skipped, sees_far, sight_limited
from braidlm.analysis.inputs import Asked, Document, Inputs
from braidlm.analysis.memories import memories, scrambled
from braidlm.data.tokenizer import load_tokenizer
from braidlm.errors import InputError
from braidlm.generate.mode import inference
from tests.analysis.known import inputs_of, look, mixer_of, model_of, random_inputs
from tests.analysis.test_retrieval_heads import SMALL, VOCAB, copying, prompts
from tests.specs import ALL, spec

HEADS = {"n_heads": 4, "n_kv_heads": 4, "head_dim": 8}


def copies_by_attention(model):
    """Attention copies what stands 3 tokens before; a recurrence behind it says nothing."""
    copying(model)
    model.blocks[1].mix.out_proj.weight.zero_()


def delay_line(model):
    """A convolution of four tokens hands on what stood 3 before; attention says nothing."""
    model.embedding.weight.zero_()
    model.embedding.weight[:, :VOCAB] = torch.eye(VOCAB)
    mixer: Any = mixer_of(model)
    z, x, *rest = mixer.in_proj.weight.split([16, 16, 4, 4, 1])
    for weight in (z, x, *rest):
        weight.zero_()
    z[:, :VOCAB] = 1.0  # every token opens the gate alike
    x[:VOCAB, :VOCAB] = torch.eye(VOCAB)
    mixer.conv_weight.zero_()
    mixer.conv_bias.zero_()
    mixer.conv_weight[:16, 0] = 1.0
    mixer.dynamics.D.fill_(1.0)
    out = model.blocks[0].mix.out_proj.weight
    out.zero_()
    out[VOCAB : 2 * VOCAB, :VOCAB] = 10 * torch.eye(VOCAB)
    model.blocks[1].mix.out_proj.weight.zero_()
    model.lm_head.weight.zero_()
    model.lm_head.weight[:, VOCAB : 2 * VOCAB] = 5 * torch.eye(VOCAB)
    for norm in (model.norm, model.blocks[0].norm):
        norm.weight.fill_(1.0)


def made(name):
    if name == "attention":
        return model_of(spec("*M", mixers={"*": HEADS}, **SMALL), copies_by_attention)
    mamba = {"n_heads": 1, "head_dim": 16, "d_state": 4, "d_conv": 4, "norm": "none"}
    small = spec("M*", mixers={"M": mamba, "*": HEADS}, **SMALL)
    return model_of(small, delay_line)


@pytest.mark.parametrize(("name", "kind"), [("attention", "kv"), ("delay line", "recurrent")])
def test_what_carries_the_answer_is_missed_and_nothing_else(name, kind):
    found = look(INSTRUMENT, made(name), prompts())
    rows = {(r["cut"], r.get("place", r["what"])): r for r in found.tables["cuts"]}
    assert found.metrics["loss"]["value"] < 0.01
    other = "recurrent" if kind == "kv" else "kv"
    assert rows["drop", kind]["harm"] == rows["drop", "all"]["harm"] > 1
    assert rows["drop", other]["harm"] == rows["drop", other]["control"] == 0
    assert found.metrics[f"drop_{kind}"]["value"] == rows["drop", kind]["harm"]
    assert found.metrics[f"drop_{kind}_control"]["value"] == rows["drop", kind]["control"] > 1
    for row in rows.values():
        assert row["beyond"] == pytest.approx(row["harm"] - row["control"])
    assert rows["skip", "0"]["harm"] > 1
    assert rows["skip", "1"]["harm"] == rows["skip", "1"]["control"] == 0
    far = {r["window"]: r["harm"] for r in found.tables["cuts"] if r["cut"] == "hide"}
    assert set(far) == {1, 4, 16}
    if name == "attention":  # three back is inside a window of four
        assert far[1] > 1 > 0.01 > abs(far[4])
    else:
        assert set(far.values()) == {0.0}


def test_long_documents_are_sampled(monkeypatch):
    monkeypatch.setattr(ablation, "LONG", 8)
    found = look(INSTRUMENT, made("attention"), prompts())
    assert len(found.rows) == 2
    assert {r["cut"] for r in found.tables["cuts"]} == {"drop", "hide"}
    assert {r["window"] for r in found.tables["cuts"] if r["cut"] == "hide"} == {1, 16}
    named = look(INSTRUMENT, made("attention"), prompts(), {0})
    assert [r["place"] for r in named.tables["cuts"] if r["cut"] == "skip"] == ["0"]
    model = made("attention")
    texts = random_inputs(model.spec, 3, 20)
    cut = inputs_of([torch.from_numpy(d.tokens[:8]) for d in texts.documents[:2]])
    assert look(INSTRUMENT, model, texts).rows == look(INSTRUMENT, model, cut).rows


def test_a_zeroed_branch_is_one_whose_projection_is_zero():
    fusion = {"combine": "add", "norm": "rms"}
    model = model_of(spec("{M*}-", fusion=fusion))
    inputs = random_inputs(model.spec, 2, 20)
    found = look(INSTRUMENT, model, inputs)
    harm = {r["place"]: r["harm"] for r in found.tables["cuts"] if r["cut"] == "zero"}
    assert set(harm) == {"0.0", "0.1"}
    with inference(model):
        for i in (0, 1):
            mix: Any = model.blocks[0].mix
            projection = mix.combine.out_projs[i].weight
            kept = projection.clone()
            projection.zero_()
            without = np.mean([loss(model, trial_of(inputs, d)) for d in (0, 1)])
            projection.copy_(kept)
            assert harm[f"0.{i}"] == pytest.approx(
                without - found.metrics["loss"]["value"], abs=1e-5
            )


def test_the_loss_of_a_text_is_that_of_its_second_half_from_state_or_not():
    model = model_of(spec("M-*"))
    inputs = random_inputs(model.spec, 1, 21)
    trial = trial_of(inputs, 0)
    assert (trial.prompt.shape[1], trial.rest.shape[1], trial.n_said) == (10, 11, 10)
    with inference(model):
        whole = model.head(model(torch.cat((trial.prompt, trial.rest), 1)).hidden)[0].log_softmax(
            -1
        )
        want = -whole[10:-1].gather(-1, trial.rest[0, 1:, None]).mean()
        assert loss(model, trial) == pytest.approx(float(want), rel=1e-5)
        state = model(trial.prompt).state
        assert loss(model, trial, state) == pytest.approx(float(want), rel=1e-5)


def test_the_question_of_a_prompt_is_behind_what_memories_hold():
    inputs = prompts(4, answer=2)
    for number, document in enumerate(inputs.documents):
        trial = trial_of(inputs, number)
        tokens = torch.cat((trial.prompt, trial.rest), dim=1)[0]
        assert tokens[:16].tolist() == document.tokens.tolist()
        assert tuple(tokens[16:].tolist()) == document.asked[0].answer
        assert trial.n_said == 2
        assert 14 <= trial.prompt.shape[1] <= 15


@pytest.mark.parametrize(
    "name", ["shared branches, handed on", "meta tokens before parallel branches (Hymba)"]
)
@pytest.mark.parametrize("owes", [False, True])
def test_a_control_moves_every_token_as_far_as_the_cut(name, owes, monkeypatch):
    monkeypatch.setattr(braidlm.model, "pays", lambda hidden: owes)
    model = model_of(ALL[name])
    ids = torch.randint(31, (1, 13))
    places = [s.index for s in model.spec.sublayers if s.is_parallel]
    at = places[0] if places else sees_far(model)[0]
    cuts: list[Any] = [partial(layers_skipped, model, [at]), partial(sight_limited, model, 2)]
    cuts += [partial(branches_cut, model, [f"{at}.1"])] if places else []
    after: list[torch.Tensor] = []

    def note(block, given, result):
        stream = result[0].settled()
        after.append(stream.hidden if stream.handed is None else stream.handed)

    def said(context):
        with context:
            hook = model.blocks[at].register_forward_hook(note)  # behind the hooks of the context
            model(ids)
            hook.remove()
        return after[-1]

    with inference(model):
        clean = said(torch.no_grad())
        for cut in cuts:
            harmed = said(cut())
            rng = torch.Generator().manual_seed(0)
            control = said(jolted(model, [at], cut, rng))
            far, wanted = (control - clean).norm(dim=-1), (harmed - clean).norm(dim=-1)
            if cut.func is layers_skipped and model.blocks[at].hands_on:
                wanted = clean.norm(dim=-1)
            torch.testing.assert_close(far, wanted, atol=1e-5, rtol=1e-4)
            cosine = torch.cosine_similarity(control - clean, harmed - clean, -1)
            assert cosine.abs().mean() < 0.6
        assert torch.equal(said(torch.no_grad()), clean)


def test_scrambled_memories_keep_their_lengths_and_no_other_memory_changes():
    model = model_of(spec("M*"))
    with inference(model):
        state = model(torch.randint(31, (2, 9))).state
        assert state is not None
        _, cache = memories(state)
        changed: Any = scrambled(state, {cache}, torch.Generator().manual_seed(0))
        old: Any = state
    assert torch.equal(changed[0].ssm, old[0].ssm)
    assert torch.equal(changed[1].length, old[1].length)
    assert not torch.allclose(changed[1].k, old[1].k)
    torch.testing.assert_close(changed[1].k.norm(dim=-1), old[1].k.norm(dim=-1))


def test_what_cannot_be_asked_is_said():
    few = Inputs("x", "recall", {}, [Document("d", np.arange(5))], load_tokenizer("bytes"))
    with pytest.raises(InputError, match="'d' asks nothing"):
        trial_of(few, 0)
    with pytest.raises(InputError, match="'d0' has fewer than 4 tokens"):
        trial_of(inputs_of([[1, 2, 3]]), 0)
    assert INSTRUMENT.why_not(spec("-").sublayers) is None
    found = look(INSTRUMENT, model_of(spec("-")), random_inputs(spec("-"), 2, 8))
    assert {r["cut"] for r in found.tables["cuts"]} == {"skip"}
    assert math.isfinite(found.tables["cuts"][0]["harm"])


def test_an_answer_of_several_tokens_is_one():
    document = Document("d", np.array([4, 1, 2, 3, 4]), (Asked(4, (1, 2), (1, 3)),))
    trial = trial_of(Inputs("x", "recall", {}, [document]), 0)
    model = model_of(spec("M*"))
    with inference(model):
        log_p = model.head(model(torch.tensor([[4, 1, 2, 3, 4, 1]])).hidden)[0].log_softmax(-1)
        assert loss(model, trial) == pytest.approx(-float(log_p[4, 1] + log_p[5, 2]), rel=1e-5)

"""A model whose third head alone copies what stands three tokens before the question."""

from typing import Any

import numpy as np
import pytest
import torch

from braidlm.analysis import retrieval_heads
from braidlm.analysis.inputs import Asked, Document, Inputs
from braidlm.analysis.retrieval_heads import INSTRUMENT, cuts_of, forced, ranking, said, why_not
from braidlm.errors import InputError
from braidlm.generate.mode import inference
from tests.analysis.known import look, mixer_of, model_of
from tests.specs import spec

VOCAB, BACK, COPIES = 8, (1, 6, 3, 9), 2
SMALL: Any = {"d_model": 32, "vocab_size": VOCAB, "tie_embeddings": False}


def copying(model):
    """Heads look 1, 6, 3 and 9 tokens back; what the third finds there is said."""
    model.embedding.weight.zero_()
    model.embedding.weight[:, 0] = 1.0
    model.embedding.weight[:, 1 : 1 + VOCAB] = torch.eye(VOCAB)
    mixer: Any = mixer_of(model)
    mixer.in_proj.weight.zero_()
    mixer.inv_freq.copy_(torch.tensor([0.3, 0.21, 0.13, 0.05]))
    q, k, v = mixer.in_proj.weight.split(mixer.widths)
    for head, distance in zip(q.unflatten(0, (4, 8)), BACK, strict=True):
        angles = -distance * mixer.inv_freq
        head[:, 0] = 300.0 * torch.cat((angles.cos(), angles.sin()))
    k.unflatten(0, (4, 8))[:, :4, 0] = 1.0
    v.unflatten(0, (4, 8))[:, :, 1 : 1 + VOCAB] = torch.eye(8)
    out = model.blocks[0].mix.out_proj.weight
    out.zero_()
    out[1 : 1 + VOCAB, 8 * COPIES : 8 * COPIES + 8] = 10 * torch.eye(8)
    model.lm_head.weight.zero_()
    model.lm_head.weight[:, 1 : 1 + VOCAB] = 5 * torch.eye(VOCAB)
    for norm in (model.norm, model.blocks[0].norm):
        norm.weight.fill_(1.0)


def model():
    attention = {"n_heads": 4, "n_kv_heads": 4, "head_dim": 8}
    return model_of(spec("*", mixers={"*": attention}, **SMALL), copying)


def prompts(n=12, answer=1):
    """The answer stands 3 tokens before the question, which is the prompt's last token."""
    rng, found = np.random.default_rng(0), []
    for i in range(n):
        tokens = rng.integers(VOCAB, size=16)
        said = tuple(tokens[12 : 12 + answer].tolist())
        found.append(Document(str(i), tokens, (Asked(15, said, (12, 12 + answer)),)))
    return Inputs("copy", "recall", {}, found)


@pytest.mark.parametrize("answer", [1, 3])
def test_the_copying_head_is_found_and_its_cut_ends_the_recall(answer):
    found = look(INSTRUMENT, model(), prompts(answer=answer))
    first, *others = found.tables["heads"]
    assert (first["place"], first["head"], first["rank"]) == ("0", COPIES, 1)
    assert first["copy"] == pytest.approx(1)
    assert first["mass"] > 0.99
    assert all(row["copy"] == 0 and row["mass"] < 0.01 for row in others)
    assert found.metrics["before"]["value"] == 1
    assert found.metrics["random_cut"]["value"] == 1
    top = found.metrics["top_cut"]["value"]
    assert top < 0.5
    assert found.metrics["drop"]["value"] == 1 - top
    cuts = {(row["cut"], row["k"]): row for row in found.tables["cuts"]}
    assert set(cuts) == {("none", 0), ("top", 1), ("random", 1), ("top", 2), ("random", 2)}
    assert cuts["top", 1]["accuracy"] < 0.5 < cuts["random", 2]["accuracy"] == 1
    assert cuts["top", 1]["nll"] > cuts["none", 0]["nll"] + 1
    assert cuts["random", 1]["accuracy_spread"] == 0
    assert cuts["top", 1]["n"] == 6


def test_a_head_that_looks_right_where_the_model_is_wrong_copies_nothing():
    wrong = model()
    with torch.no_grad():
        wrong.lm_head.weight.neg_()
    row = look(INSTRUMENT, wrong, prompts()).tables["heads"][0]
    assert (row["head"], row["copy"]) == (COPIES, 0)
    assert row["mass"] > 0.99


def test_heads_are_found_on_one_half_and_cut_on_the_other():
    """In every second prompt, from the second on, the answer stands where another head looks."""
    given = prompts()
    for i in range(1, 12, 2):
        document = given.documents[i]
        asked = Asked(15, (int(document.tokens[9]),), (9, 10))
        given.documents[i] = document._replace(asked=(asked,))  # type: ignore[index]
    found = look(INSTRUMENT, model(), given)
    first = found.tables["heads"][0]
    assert (first["head"], first["copy"], first["n"]) == (COPIES, 1, 6)
    assert first["mass"] > 0.99
    assert found.metrics["before"]["value"] <= 0.5  # right by chance alone
    assert [row["id"] for row in found.rows] == [str(i) for i in range(1, 12, 2)]


def test_meta_tokens_move_every_place_alike():
    attention = {"n_heads": 4, "n_kv_heads": 4, "head_dim": 8}
    meta = model_of(spec("*", mixers={"*": attention}, n_meta_tokens=5, **SMALL), copying)
    row = look(INSTRUMENT, meta, prompts()).tables["heads"][0]
    assert (row["head"], row["copy"]) == (COPIES, 1)


def test_answers_are_given_token_by_token():
    prompt = forced(prompts(1, 3).documents[0])
    tokens = prompt.document.tokens
    assert len(tokens) == 18
    assert [(s.query, s.source) for s in prompt.answers[0]] == [(15, 12), (16, 13), (17, 14)]
    assert tokens[16:].tolist() == tokens[12:14].tolist()
    with inference(one := model()):
        given = said(one, prompt)
        whole = one.head(one(torch.from_numpy(tokens)[None]).hidden)[0].log_softmax(-1)
    want = -sum(float(whole[s.query, s.token]) for s in prompt.answers[0])
    assert given.nll == pytest.approx(want, rel=1e-5)
    assert given.hits == [True] * 3


def test_a_middle_question_is_scored_as_far_as_the_prompt_answers_it():
    tokens = np.array([1, 2, 3, 4, 1, 2, 7, 5])
    asked = (Asked(4, (2, 3), (1, 3)), Asked(7, (6,), (0, 1)))
    steps = forced(Document("x", tokens, asked)).answers
    assert [[step.query for step in answer] for answer in steps] == [[4, 5], [7]]
    asked = (Asked(4, (3, 2), (1, 3)), Asked(7, (6,), (0, 1)))
    steps = forced(Document("x", tokens, asked)).answers
    assert [len(answer) for answer in steps] == [1, 1]


def test_ranking_and_random_heads_beside_the_top():
    scores = {"0": [np.array([[0, 0.2], [0.5, 0.1]])], "2": [np.array([[0, 0.3], [0.5, 0.2]])]}
    ranked = ranking(scores)
    assert ranked == [("2", 1), ("0", 1), ("2", 0), ("0", 0)]
    for kind, k, heads in cuts_of(ranked):
        assert len(set(heads)) == k
        assert kind != "random" or not set(heads) & set(ranked[:k])


def test_long_prompts_are_sampled(monkeypatch):
    monkeypatch.setattr(retrieval_heads, "LONG", 8)
    monkeypatch.setattr(retrieval_heads, "N_TOKENS", 100)
    found = look(INSTRUMENT, model(), prompts())
    n = 100 // max(len(document.tokens) for document in prompts().documents)
    assert 4 < n < 12
    assert len(found.rows) == n // 2
    assert {row["n_draws"] for row in found.tables["cuts"]} == {1}
    assert found.metrics["drop"]["value"] == 1.0


def test_what_cannot_be_measured_is_said():
    with pytest.raises(InputError, match="needs 2 prompts"):
        look(INSTRUMENT, model(), prompts(1))
    assert why_not(spec("M-").sublayers) == "no layer attends"

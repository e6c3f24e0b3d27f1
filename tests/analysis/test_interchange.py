"""The 2x2 of states, on models whose memory is known and on real ones."""

import pytest
import torch

from braidlm.analysis.interchange import Twins, answer_log_p, effects, interchange, score
from braidlm.generate.mode import inference
from braidlm.model import HybridLM
from tests.analysis.two_notes import SURE, TwoNotes
from tests.specs import spec

VOCAB = 10
SAID = torch.tensor([SURE]).exp() / (torch.tensor([SURE]).exp() + VOCAB - 1)
HALF = torch.tensor([SURE / 2]).exp() / (2 * torch.tensor([SURE / 2]).exp() + VOCAB - 2)


def twins(n: int = 3) -> Twins:
    a = torch.randint(VOCAB, (n, 6))
    b = a.clone()
    b[:, 1] = (a[:, 1] + 1) % VOCAB
    return Twins(a, b, torch.randint(VOCAB, (n, 2)), a[:, 1:2], b[:, 1:2])


def asked(rule, tw, **settings):
    with inference(model := TwoNotes(VOCAB, rule)):
        return interchange(model, tw, **settings)


# S is what a sure answer scores more than any other token.
S = float(SAID - (1 - SAID) / (VOCAB - 1)) / 2


@pytest.mark.parametrize(
    ("rule", "kv", "recurrent", "interaction"),
    [
        ("kv", 2 * S, 0.0, 0.0),
        ("recurrent", 0.0, 2 * S, 0.0),
        ("either", S, S, 0.0),
        ("both", S, S, 0.0),
    ],
)
def test_effects_are_those_of_the_rule(rule, kv, recurrent, interaction):
    found = effects(score(asked(rule, twins()).cells))
    for value, want in zip(found, (kv, recurrent, interaction, 2 * S), strict=True):
        torch.testing.assert_close(value, torch.full((3,), want).double(), atol=1e-5, rtol=1e-5)


def test_interaction_of_cells_written_by_hand():
    """B is said only if both memories say so, A otherwise: a pure conjunction."""
    p = torch.tensor([[[0.9, 0.1]], [[0.9, 0.1]], [[0.9, 0.1]], [[0.1, 0.9]]]).double()
    found = effects(score(p.log()))
    torch.testing.assert_close(
        torch.stack(found)[:, 0], torch.tensor([0.4, 0.4, 0.4, 0.8]).double()
    )


def test_a_same_answer_swap_changes_nothing_at_all():
    for rule in ("kv", "recurrent", "either", "both"):
        found = asked(rule, twins())
        assert torch.equal(found.control, found.cells[:1].expand(2, -1, -1))


def test_memories_by_themselves():
    found = asked("kv", twins())
    assert [m.place for m in found.memories] == ["1", "2"]
    aa, bb = score(found.cells)[[0, 3]]
    torch.testing.assert_close(score(found.alone), torch.stack((bb, aa)))
    torch.testing.assert_close(score(found.without), torch.stack((aa, bb)))
    assert asked("kv", twins(), layers={2}).without.shape == (1, 3, 2)
    assert asked("kv", twins(), layers=()).alone.shape == (0, 3, 2)


@pytest.mark.parametrize("pattern", ["M-*-", "{M*}-{G*}-", "SW+"])
def test_clean_cells_are_the_model_itself(pattern):
    model = HybridLM(spec(pattern, mixers={"W": {"kind": "attention", "window": 4}})).eval()
    tw = Twins(*(torch.randint(31, (2, n)) for n in (12, 12, 3, 2, 2)))
    with inference(model):
        found = interchange(model, tw)
        for cell, prompt in ((0, tw.a), (3, tw.b)):
            for column, answer in enumerate((tw.answer_a, tw.answer_b)):
                whole = torch.cat((prompt, tw.question, answer), dim=1)
                log_p = model.head(model(whole).hidden).log_softmax(-1)[:, 14:16]
                want = log_p.gather(-1, answer[..., None]).sum((1, 2)).double()
                torch.testing.assert_close(found.cells[cell, :, column], want, atol=2e-6, rtol=0)
    assert torch.equal(found.control, found.cells[:1].expand(2, -1, -1))
    assert not torch.equal(found.cells[0], found.cells[1])


def test_one_token_is_the_same_by_either_way():
    model = HybridLM(spec("M*")).eval()
    tw = Twins(*(torch.randint(31, (2, n)) for n in (12, 12, 3, 1, 1)))
    longer = tw._replace(answer_a=tw.answer_a.repeat(1, 2), answer_b=tw.answer_b.repeat(1, 2))
    with inference(model):
        short = answer_log_p(model, model(tw.a).state, tw)
        assert (answer_log_p(model, model(tw.a).state, longer) < short).all()

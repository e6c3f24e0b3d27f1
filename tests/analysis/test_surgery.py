"""The instrument over models that are known to keep a fact in a cache, in a state, or in both."""

from typing import Any

import numpy as np
import pytest
import torch

from braidlm.analysis.inputs import Asked, Document, Inputs
from braidlm.analysis.interchange import Twins, interchange
from braidlm.analysis.surgery import INSTRUMENT, why_not
from braidlm.data.tokenizer import load_tokenizer
from braidlm.model import HybridLM
from tests.analysis.known import look
from tests.analysis.two_notes import TwoNotes
from tests.specs import spec

VOCAB = 10


def notes(rule) -> Any:
    return TwoNotes(VOCAB, rule)


def prompts(n=12):
    """A fact at place 1, and a question of one token, 4 to 11 tokens behind it."""
    rng, found = np.random.default_rng(0), []
    for i in range(n):
        tokens = rng.integers(VOCAB, size=5 + i % 8)
        asked = Asked(len(tokens) - 1, (int(tokens[1]),), (1, 2))
        found.append(Document(str(i), tokens, (asked,)))
    return Inputs("facts", "recall", {}, found)


@pytest.mark.parametrize(
    ("rule", "kv", "recurrent"), [("kv", 1, 0), ("recurrent", 0, 1), ("either", 0.5, 0.5)]
)
def test_the_fact_is_where_the_rule_keeps_it(rule, kv, recurrent):
    found = look(INSTRUMENT, notes(rule), prompts())
    for name, want in (("kv", kv), ("recurrent", recurrent), ("total", 1), ("kv_share", kv)):
        assert found.metrics[name]["value"] == pytest.approx(want, abs=1e-3)
        assert found.metrics[name]["stderr"] < 1e-5
    assert found.metrics["control"]["value"] == 0
    for name in ("kv_same_answer", "recurrent_same_answer", "both_same_answer"):
        assert found.metrics[name]["value"] == pytest.approx(0, abs=1e-6)
        assert found.metrics[name]["n"] == 12
    assert found.metrics["total_nats"]["value"] == pytest.approx(24, abs=0.01)
    for row in found.tables["by_distance"]:
        assert row["kv"] == pytest.approx(kv, abs=1e-3)
        assert min(row["p_BB_b"], row["p_AA_a"]) > 0.999
    assert [(r["start"], r["n"]) for r in found.tables["by_distance"]] == [(4, 8), (8, 4)]


def test_the_control_takes_its_memories_from_the_other_prompt():
    model = notes("recurrent")
    tw = Twins(*(torch.tensor([[0, 3, 1, 2]] * 2)[:, :n] for n in (4, 4, 1, 1, 1)))
    c = torch.tensor([[0, 7, 1, 2]] * 2)
    with torch.no_grad():
        answers = interchange(model.eval(), tw._replace(c=c, answer_b=torch.tensor([[7]] * 2)))
    said = answers.same_answer.exp()[..., 1]  # what the recurrent memories of C say
    assert (said[0] < 0.01).all()
    assert (said[1:] > 0.99).all()


def test_prompts_too_short_for_a_control_have_none():
    tokens = np.array([3, 5, 3])
    short = [Document(str(i), tokens + i, (Asked(2, (5 + i,), (1, 2)),)) for i in (0, 1)]
    found = look(INSTRUMENT, notes("kv"), Inputs("", "recall", {}, short))
    assert found.metrics["kv"]["value"] == pytest.approx(1, abs=1e-3)
    assert found.metrics["kv_same_answer"] == {
        "value": None,
        "stderr": None,
        "n": 0,
        "unit": "share",
    }


def test_each_memory_by_itself_is_named():
    rows = look(INSTRUMENT, notes("kv"), prompts()).tables["by_memory"]
    assert [(r["place"], r["letter"], r["kind"], r["memory"]) for r in rows] == [
        ("1", "*", "attention", "kv"),
        ("2", "M", "mamba2", "recurrent"),
    ]
    for column in ("alone", "without"):
        assert [r[column] for r in rows] == pytest.approx([1, 0], abs=1e-3)
    either = look(INSTRUMENT, notes("either"), prompts(), {2}).tables["by_memory"]
    assert [(r["place"], r["n"]) for r in either] == [("2", 12)]
    assert either[0]["alone"] == pytest.approx(0.5, abs=1e-3)


def test_cells_are_what_the_rule_says_of_them():
    rows = look(INSTRUMENT, notes("recurrent"), prompts()).tables["by_cell"]
    said = {(row["kv"], row["recurrent"]): (row["p_a"], row["p_b"]) for row in rows}
    for (_, recurrent), (p_a, p_b) in said.items():
        assert (p_a > 0.999) == (recurrent == "A")
        assert (p_b > 0.999) == (recurrent == "B")
    assert len(said) == 4


@pytest.mark.parametrize("pattern", ["M-*-", "{M*}W"])
def test_real_models_read_text_with_a_passkey(pattern):
    model = HybridLM(spec(pattern, vocab_size=260)).eval()
    documents = [Document(str(i), torch.randint(97, 120, (70,)).numpy()) for i in range(4)]
    inputs = Inputs("", "text", {}, documents, load_tokenizer("bytes"))
    found = look(INSTRUMENT, model, inputs)
    assert found.metrics["control"]["value"] == 0
    assert found.metrics["total_nats"]["value"] != 0
    total = found.metrics["kv"]["value"] + found.metrics["recurrent"]["value"]
    assert total == pytest.approx(found.metrics["total"]["value"], abs=1e-12)
    assert {row["id"] for row in found.rows} == {"0", "1", "2", "3"}


def test_nothing_to_exchange():
    assert why_not(spec("-").sublayers) == "no layer has a memory"
    assert why_not(spec("-W").sublayers) is None

"""Repeats of bigrams, and the loss of models that know them and that do not."""

import numpy as np
import pytest

from braidlm.analysis import repeats as module
from braidlm.analysis.inputs import Document, Inputs
from braidlm.analysis.instrument import Subject
from braidlm.analysis.repeats import repeats
from braidlm.generate.mode import inference
from tests.tasks.models import VOCAB, Lookup, Uniform


def test_distances_by_hand():
    #        0  1  2  3  4  5  6  7  8  9
    tokens = [9, 1, 2, 3, 1, 2, 1, 4, 1, 2]
    distance, is_latest = repeats(np.array(tokens))
    assert distance.tolist() == [0, 0, 0, 0, 0, 3, 0, 0, 0, 4]
    # At 9 the token 1 was last followed by 4, at 7; at 5 it was last followed by 2.
    assert is_latest.tolist() == [False] * 5 + [True] + [False] * 4


@pytest.mark.parametrize("seed", range(3))
def test_distances_against_a_search(seed):
    tokens = np.random.default_rng(seed).integers(5, size=60)
    distance, is_latest = repeats(tokens)
    for t in range(1, 60):
        same = [s for s in range(1, t) if (tokens[s - 1 : s + 1] == tokens[t - 1 : t + 1]).all()]
        assert distance[t] == (t - same[-1] if same else 0)
        before = [s for s in range(1, t) if tokens[s - 1] == tokens[t - 1]]
        assert is_latest[t] == bool(same and tokens[before[-1]] == tokens[t])


RNG = np.random.default_rng(0)
RANDOM = [RNG.integers(20, size=80) for _ in range(4)]
TWICE = [np.tile(RNG.permutation(40), 2) for _ in range(4)]


def measured(model, documents=RANDOM):
    documents = [Document(str(i), tokens) for i, tokens in enumerate(documents)]
    with inference(model):
        return module.run(Subject(model, Inputs("", "text", {}, documents)), lambda a, b: None)


def test_a_model_that_knows_nothing_loses_the_same_everywhere():
    found = measured(Uniform())
    for name in ("repeat", "other", "latest", "all"):
        assert found.metrics[name]["value"] == pytest.approx(np.log(VOCAB), rel=1e-5)
    rows = found.tables["by_distance"]
    assert sum(row["n_tokens"] for row in rows) == found.tables["by_kind"][0]["n_tokens"] > 20
    assert found.tables["by_kind"][3]["n_tokens"] == 4 * 79


def test_a_model_that_looks_up_is_sure_of_repeats_alone():
    """A document is a permutation of 40 tokens, said twice: its second half repeats the first."""
    found = measured(Lookup(), documents=TWICE)
    rows = {row["tokens"]: row for row in found.tables["by_kind"]}
    assert rows["repeat"]["loss"] < 1e-4
    assert rows["other"]["loss"] == pytest.approx(np.log(VOCAB), rel=0.05)
    assert (rows["repeat"]["n_tokens"], rows["other"]["n_tokens"]) == (4 * 39, 4 * 40)
    assert rows["latest"] == rows["repeat"] | {"tokens": "latest"}
    assert [(r["start"], r["n_tokens"]) for r in found.tables["by_distance"]] == [(32, 4 * 39)]
    short = measured(Lookup(reach=20), documents=TWICE)
    assert short.metrics["repeat"]["value"] == pytest.approx(np.log(VOCAB), rel=1e-5)


def test_rows_add_up_to_the_metrics():
    found = measured(Lookup())
    nll, n = (sum(row[f"repeat_{key}"] for row in found.rows) for key in ("nll", "n"))
    assert nll / n == pytest.approx(found.metrics["repeat"]["value"])

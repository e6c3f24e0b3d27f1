"""What the gate lets through, what it rejects and why, and what it did not judge."""

import json
import sys

import pytest

from braidlm.data.paraphrase import similarity
from braidlm.data.paraphrase.gate import Gate, GateConfig, lexical_distance
from braidlm.errors import InputError

TEXT = "On 5 May 1990 the physician Ada Byron bought twelve big houses in the old town of Lille."
GOOD = "Ada Byron, a doctor, purchased 12 large houses in the old town of Lille on May 5, 1990."


def verdict(paraphrase, text=TEXT, **bounds):
    [found] = Gate(GateConfig(**bounds)).judge([(text, paraphrase)])
    return found


def test_other_words_for_the_same_facts_pass_with_their_scores():
    found = verdict(GOOD)
    assert found.reason == ""
    assert found.scores == {
        "length_ratio": 1.0,
        "distance": round(lexical_distance(TEXT.lower().replace(".", "").split(), WORDS), 4),
        "numbers_kept": 1.0,
        "new_numbers": 0,
        "dates_kept": 1.0,
        "new_dates": 0,
        "names_kept": 1.0,
        "new_names": 0,
    }


WORDS = GOOD.lower().replace(",", "").replace(".", "").split()


@pytest.mark.parametrize(
    ("paraphrase", "reason"),
    [
        ("", "empty paraphrase"),
        ("...", "empty paraphrase"),
        (GOOD.replace("12", "13"), "numbers: lost 12"),
        (GOOD.replace("12", "12 or 13"), "new numbers: 13"),
        (GOOD.replace("1990", "1991"), "numbers: lost 1990"),
        (GOOD.replace("May", "June"), "dates: lost may"),
        (GOOD.replace("May 5", "May 5, a Monday,"), "new dates: monday"),
        (GOOD.replace("Ada Byron", "Ada"), "names: lost byron"),
        (GOOD.replace("in the", "in France, in the"), "new names: france"),
        (TEXT, "too alike: distance 0.00 is below 0.05"),
        ("Lille, Ada Byron, 5 May 1990: 12.", "length: 0.39 times the text's, not 0.5 to 2.0"),
        (GOOD + GOOD + GOOD, "length: 3.00 times the text's, not 0.5 to 2.0"),
    ],
)
def test_the_first_reason(paraphrase, reason):
    found = verdict(paraphrase)
    assert found.reason == reason
    assert not paraphrase.strip(".") or "distance" in found.scores


@pytest.mark.parametrize(
    ("bound", "value", "paraphrase"),
    [
        ("min_numbers", 0.6, GOOD.replace("12 ", "")),
        ("max_new_numbers", 1, GOOD.replace("12", "12 or 13")),
        ("min_dates", 0.0, GOOD.replace("May 5, 1990", "5, 1990")),
        ("max_new_dates", 1, GOOD.replace("May 5", "May 5, a Monday,")),
        ("min_names", 0.6, GOOD.replace("Ada Byron", "Ada")),
        ("max_new_names", 1, GOOD.replace("in the", "in France, in the")),
        ("min_distance", 0.0, TEXT),
        ("max_length", 4.0, GOOD + GOOD + GOOD),
    ],
)
def test_each_bound_is_an_option(bound, value, paraphrase):
    assert verdict(paraphrase).reason
    assert verdict(paraphrase, **{bound: value}).reason == ""


def test_the_distance_counts_words_and_their_order():
    assert lexical_distance(["a", "b"], ["a", "b"]) == 0
    assert lexical_distance(["a", "b"], ["b", "a"]) == 0.5  # a and b of a, b, a-b and b-a
    assert lexical_distance(["a", "a"], ["a"]) == pytest.approx(2 / 3)  # a of a, a, a-a
    assert lexical_distance(["a"], ["b"]) == 1


@pytest.mark.parametrize(
    ("bounds", "says"),
    [
        ({"min_length": 2.0, "max_length": 1.0}, "min_length = 2.0 and max_length = 1.0"),
        ({"min_names": 1.5}, "min_names = 1.5"),
        ({"min_nmaes": 1.0}, r"unknown field 'min_nmaes' \(did you mean 'min_names'\?\)"),
    ],
)
def test_wrong_bounds_are_refused(bounds, says):
    with pytest.raises(InputError, match=says):
        GateConfig.of(bounds, "gate")


class TestMeaning:
    def test_not_asked_is_said(self):
        described = Gate(GateConfig()).described()
        assert described["semantic_model"] is None
        assert described["min_similarity"] is None
        assert json.dumps(described)

    def test_asked_without_the_package_is_refused(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "sentence_transformers", None)
        with pytest.raises(InputError, match="needs the package 'sentence-transformers'"):
            Gate(GateConfig(semantic_model="some-model"))

    def test_the_cosine_is_held_to_its_bound(self, monkeypatch):
        class Fixed:
            def __init__(self, model):
                assert model == "some-model"

            def of(self, pairs):
                return [0.9 if "12" in paraphrase else 0.3 for _, paraphrase in pairs]

        monkeypatch.setattr("braidlm.data.paraphrase.gate.Similarity", Fixed)
        gate = Gate(GateConfig(semantic_model="some-model", min_similarity=0.5))
        good, bad = gate.judge([(TEXT, GOOD), (TEXT, GOOD.replace("12", "twelve"))])
        assert (good.reason, good.scores["similarity"]) == ("", 0.9)
        assert bad.reason == "meaning: similarity 0.30 is below 0.5"
        assert gate.described()["min_similarity"] == 0.5

    @pytest.mark.slow
    def test_a_model_that_is_not_there_is_refused(self, tmp_path):
        pytest.importorskip("sentence_transformers")
        with pytest.raises(InputError, match="cannot be read"):
            similarity.Similarity(str(tmp_path))

"""Lists that may be turned around and those that may not; phrases that say the same."""

import re

import pytest

from braidlm.data.paraphrase.gate import Gate, GateConfig
from braidlm.data.paraphrase.rules.lists import turned_lists
from braidlm.data.paraphrase.rules.phrases import other_phrases
from braidlm.data.paraphrase.rules.sentence import Edit, Sentence, edited

TURNED = [
    ("Contact between seamen and prisoners was barred.", "prisoners and seamen was barred."),
    ("It met political and economic obstacles.", "It met economic and political obstacles."),
    ("The flag was green, white and blue.", "The flag was blue, white and green."),
    (
        "They sell food to schools, colleges, and libraries.",
        "They sell food to libraries, colleges, and schools.",
    ),
    ("It hurt the head and body.", "It hurt the body and head."),
    ("It has a root and a grammatical ending.", "It has a grammatical ending and a root."),
    (
        "It was found by David Jewitt and Edward Danielson.",
        "It was found by Edward Danielson and David Jewitt.",
    ),
]
KEPT = [
    "They are known as Smith and Jones respectively.",
    "It is in Trinidad and Tobago.",
    "He came on Monday and Tuesday.",
    "North Dakota and South Dakota became the 39th and 40th states.",
    "He met old men and women.",
    "It is in northwestern South Asia and Central Asia.",
    "Drugs may cause damage and other effects.",
    "The town has canals and houses that supply water.",
    "They wrote health and safety rules.",
    "He saw an apple and pear.",
    "It broke law and order.",
    "He left the room and slept.",
    "The king and his wife came.",
]
PHRASES = [
    ("For example, it rained.", "For instance, it rained."),
    ("It closed due to the rain.", "It closed because of the rain."),
    ("It has a pool, as well as two bars.", "It has a pool, and also two bars."),
    ("It is one of the oldest towns.", "It is among the oldest towns."),
    ("It has approximately 40 rooms.", "It has about 40 rooms."),
    ("Although it rained, they came.", "Even though it rained, they came."),
    ("a house which was built in 1990", "a house built in 1990"),
    ("the box in which it lay", "the box where it lay"),
    ("a number of towns such as Rome", "several towns like Rome"),
]
UNCHANGED = [
    "The train is due to leave.",
    "He played as well as he could.",
    "He sang as well as his wife.",
    "the way in which it works",
    "the year in which it happened",
    "no more than 40 rooms",
    "more than half of it",
    "It is one of the two towns.",
    'He said "for example" twice.',
    "a number of-cases",
]


def turned(pipeline, words: str) -> str:
    (sentence,) = pipeline(words).sents
    tokens = list(sentence)
    return edited(tokens, turned_lists(Sentence(tokens), {}), {})


@pytest.mark.parametrize(("words", "other"), TURNED)
def test_a_list_is_turned_around_and_holds_the_same_words(pipeline, words, other):
    found = turned(pipeline, words)
    assert found.endswith(other)
    letters = [sorted(re.findall(r"\w+", text.lower())) for text in (words, found)]
    assert letters[0] == letters[1]
    assert turned(pipeline, found) == words


@pytest.mark.parametrize("words", KEPT)
def test_a_list_whose_order_may_mean_something_stays(pipeline, words):
    assert turned(pipeline, words) == words


def test_a_synonym_moves_with_its_place_in_the_list(pipeline):
    tokens = list(pipeline("It met mottos and songs."))
    changed = {2: "slogans"}
    assert edited(tokens, turned_lists(Sentence(tokens), changed), changed) == (
        "It met songs and slogans."
    )


def test_edits_of_several_words_keep_the_space_around_them(pipeline):
    tokens = list(pipeline("One two three, four."))
    assert edited(tokens, [Edit(0, 2, "A"), Edit(4, 5, "b c")], {2: "x"}) == "A x, b c."


@pytest.mark.parametrize(("words", "other"), PHRASES)
def test_a_phrase_is_told_in_other_words(words, other):
    assert other_phrases(words) == other


@pytest.mark.parametrize("words", UNCHANGED)
def test_a_phrase_that_means_something_else_stays(words):
    assert other_phrases(words) == words


def test_no_phrase_loses_a_fact():
    gate = Gate(GateConfig(min_distance=0, max_distance=1, min_length=0, max_length=9))
    found = [(words, other_phrases(words)) for words, _ in PHRASES]
    assert [verdict.reason for verdict in gate.judge(found)] == [""] * len(found)

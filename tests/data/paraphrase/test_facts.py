"""Numbers, dates and names, however they are written."""

import pytest

from braidlm.data.paraphrase.facts import facts, number_of


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("on 5 May 1990", "on May 5th, 1990"),
        ("on 5 May 1990", "1990-05-05"),
        ("in Feb. 3 of it", "in February 3 of it"),
        ("1,200 cows", "twelve hundred cows"),
        ("$5 million", "5,000,000 dollars"),
        ("3.50 km", "3.5 km"),
        ("the 12th man", "the twelfth man"),
        ("in nineteen ninety-five", "in 1995"),
        ("two hundred and five", "205"),
        ("1990s", "1990's"),
        ("the head of Project 21", "Project 21's head"),
        ("a five-year plan", "a 5-year plan"),
    ],
)
def test_the_same_in_two_ways(one, other):
    assert facts(one)[:2] == facts(other)[:2]
    assert facts(one).numbers


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1990", "1991"),
        ("1990", "1990s"),
        ("3.5", "35"),
        ("1,200", "1,2"),
        ("seven men", "eight men"),
        ("five thousand", "five million"),
        ("the third man", "the fifth man"),
        ("in May", "in June"),
        ("on Monday", "on Friday"),
    ],
)
def test_what_differs(one, other):
    assert facts(one)[:2] != facts(other)[:2]


@pytest.mark.parametrize(
    ("run", "value"),
    [
        ("twenty-one", 21),
        ("nineteen ninety five", 1995),
        ("five hundred thousand and six", 500006),
        ("hundred", 100),
        ("one two", None),
    ],
)
def test_number_words(run, value):
    assert number_of(run) == value


def test_words_that_need_not_be_numbers_or_months():
    assert facts("One of them may march in an august way, for a second.")[:2] == (set(), set())
    assert facts("It was found by August Kopff.").dates == set()
    assert facts("It was found by August.").dates == {"august"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("The visit of Barack Obama. Then he left.", {"barack", "obama"}),
        ("They met O'Brien's son in Baden-Baden.", {"o", "brien", "baden"}),
        ("NASA is big. Its McDonald is not.", {"nasa", "mcdonald"}),
        ('He said: "Go to Paris." "Why?"', {"paris"}),
        ("In May, on a Monday, I saw The Who", {"who"}),
        ("Ümit and Émile met in Århus", {"émile", "århus"}),
    ],
)
def test_names(text, names):
    assert facts(text).names == names

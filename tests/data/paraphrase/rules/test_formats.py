"""Numbers and dates change their form and never their value."""

import pytest

from braidlm.data.paraphrase.facts import facts
from braidlm.data.paraphrase.rules.formats import other_dates, other_numbers

DATES = [
    ("on May 5, 1990, he", "on 5 May 1990, he"),
    ("on May 5, 1990.", "on 5 May 1990."),
    ("on 5 May 1990 he", "on May 5, 1990, he"),
    ("on 5 May 1990.", "on May 5, 1990."),
    ("on 30th June 2006 it", "on June 30, 2006, it"),
    ("(May 8, 1911 – August 16, 1938)", "(8 May 1911 – 16 August 1938)"),
    ("since 1990-05-05", "since May 5, 1990"),
]
NUMBERS = [
    ("with 12 ships", "with twelve ships"),
    ("with twelve ships", "with 12 ships"),
    ("over 5,200,000 people", "over 5.2 million people"),
    ("over 5,000,000 people", "over 5 million people"),
    ("some 25% of it", "some 25 percent of it"),
    ("some 25 percent of it", "some 25% of it"),
]
SAME = [
    "from 17 June to 19 June 1944",
    "June 17 to 19, 1944",
    "in May 1990",
    "1990-13-05",
    "ranks 12–14 ships",
    "between 10 and 12 ships",
    "Apollo 11 missions",
    "for page 12 says",
    "a 12-year plan",
    "5,200,001 people",
    "1,200,000.5 of it",
    "one of the two sides",
    "at 3.5 miles",
    "21 to 12 votes",
]


@pytest.mark.parametrize(("before", "after"), DATES)
def test_dates(before, after):
    assert other_dates(before) == after
    assert facts(before)[:2] == facts(after)[:2]


@pytest.mark.parametrize(("before", "after"), NUMBERS)
def test_numbers(before, after):
    assert other_numbers(before) == after
    assert facts(before)[:2] == facts(after)[:2]


@pytest.mark.parametrize("text", SAME)
def test_what_stays(text):
    assert other_dates(other_numbers(text)) == text

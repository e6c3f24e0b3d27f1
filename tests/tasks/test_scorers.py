"""Scores of given answers, by hand and against the published rules."""

import pytest

from braidlm.tasks.scorers import SCORERS


@pytest.mark.parametrize(
    ("name", "said", "answers", "score"),
    [
        ("contains", " the MICROStrep plus® panel", ["MICroSTREP plus®"], 1),
        ("contains", "a.c", ["a.c"], 1),
        ("contains", "abc", ["a.c"], 0),  # the answer is text, not a pattern
        ("contains", "16000", ["16,000"], 0),
        ("contains", "forty two", ["42", "forty TWO"], 1),
        ("contains", "", ["x"], 0),
        ("exact", " Paris \n", ["Paris"], 1),
        ("exact", "paris", ["Paris"], 0),
        ("exact", "Paris, France", ["Paris"], 0),
        ("squad_em", "The  Eiffel-Tower!", ["eiffeltower"], 1),
        ("squad_em", "a theatre", ["theatre"], 1),
        ("squad_em", "an ant and the bee", ["ant and bee"], 1),
        ("squad_em", "Eiffel", ["Eiffel Tower"], 0),
        ("squad_f1", "in the year 1887", ["1887"], 0.5),  # P 1/3, R 1
        ("squad_f1", "red red blue", ["red blue blue"], 2 / 3),
        ("squad_f1", "green", ["red", "green leaf"], 2 / 3),
        ("squad_f1", "the", ["a"], 1),
        ("squad_f1", "", ["x"], 0),
        ("string_match_all", "ABC 12 and 34", ["12", "abc", "99", "34"], 0.75),
        ("string_match_part", "ABC 12", ["99", "abc"], 1),
        ("string_match_part", "ABC 12", ["99"], 0),
        ("best_subspan_em", "It was the Eiffel-Tower!", ["eiffeltower", "x"], 1),
        ("best_subspan_em", "It was Eiffel.", ["Eiffel Tower"], 0),
        ("altqa_accuracy", " 1964. ", ["1964"], 1),
        ("altqa_accuracy", " in 1964", ["1964"], 0),
        ("altqa_accuracy", "1,964", ["1964"], 0),
        ("altqa_accuracy", "", ["9"], 0),
        ("first_number", " It was in 1964, or 1965", ["1964"], 1),
        ("first_number", " It was in 1964, or 1965", ["1965"], 0),
        ("first_number", "1,964.0 or so", ["1964"], 1),
        ("first_number", "19,64", ["19"], 1),
        ("first_number", "1979", ["9"], 0),
        ("first_number", "nine", ["9"], 0),
        ("first_number", "9", ["nine"], 0),
    ],
)
def test_by_hand(name, said, answers, score):
    assert SCORERS[name](said, answers) == pytest.approx(score)


@pytest.mark.parametrize("name", list(SCORERS))
def test_the_answer_itself_has_a_full_score_and_nothing_has_none(name):
    assert SCORERS[name]("naïve café", ["naïve café"]) == 1
    assert SCORERS[name]("", ["naïve café"]) == 0

"""Biographies: the same facts, never in the same words."""

import pytest

from braidlm.arch.biographies import N_FORMS, Telling
from braidlm.data.biographies.attributes import ATTRIBUTES
from braidlm.data.biographies.form import naming, pronouns
from braidlm.data.biographies.told import Biography, Teller

ALL = range(len(ATTRIBUTES))


def without_facts(biography: Biography) -> dict[int, tuple[str, str]]:
    """Attribute -> the words around its answer, with the person taken out."""
    who = biography.person
    pairs = zip(biography.order, biography.sentences, strict=True)
    return {a: (s.before.replace(who.name, "X"), s.after.replace(who.name, "X")) for a, s in pairs}


def test_every_attribute_has_32_forms_and_new_ones_beside():
    befores = []
    for attribute in ATTRIBUTES:
        forms = attribute.forms
        assert len(set(forms.told)) == len(forms.told) == N_FORMS
        assert not {f.before for f in forms.told} & {f.before for f in forms.new if f.before}
        assert all(form.is_askable for form in forms.new)
        assert sum(form.is_askable for form in forms.told) >= 20
        assert not set(forms.asked) & set(forms.newly_asked)
        for form in (*forms.told, *forms.new):
            words = naming("Ann Ida Bell", True)
            assert "Ann Ida Bell" in (told := form.told(words, "THIS").text)
            assert told.endswith(".")
            assert "{" not in told
        befores += {f.before for f in (*forms.told, *forms.new) if f.is_askable}
        befores += [*forms.asked, *forms.newly_asked]
    # What stands before an answer says which fact is meant.
    assert len(set(befores)) == len(befores)


def test_no_two_biographies_of_a_person_share_a_form():
    teller = Teller(Telling(n_people=40, n_biographies=N_FORMS, naming="always"))
    for person in range(3):
        told = [without_facts(teller.biography(person, k)) for k in range(N_FORMS)]
        for attribute in ALL:
            assert len({one[attribute] for one in told}) == N_FORMS


def test_biographies_keep_the_facts_and_change_their_order():
    teller = Teller(Telling(n_people=300, n_biographies=6))
    for person in range(300):
        first, *others = (teller.biography(person, k) for k in range(6))
        assert sorted(first.order) == list(ALL)
        for other in others:
            assert other.order != first.order
            for answer in first.person.answers:
                assert answer in first.text
                assert answer in other.text
    assert len({teller.biography(p).order for p in range(300)}) > 200
    fixed = Teller(Telling(n_people=1, order="fixed"))
    assert fixed.biography(0, 3).order == tuple(ALL)


def test_a_biography_does_not_depend_on_how_many_there_are():
    few = Teller(Telling(n_people=5, n_biographies=1, naming="drawn"))
    many = Teller(Telling(n_people=2000, n_biographies=9, naming="drawn"))
    for person in range(5):
        for k in (0, 1, 8):
            assert few.biography(person, k) == many.biography(person, k)
    assert Teller(Telling(world_seed=1)).biography(0) != Teller(Telling()).biography(0)
    assert Teller(Telling(), "held_out").biography(0) != Teller(Telling()).biography(0)


@pytest.mark.parametrize(("kind", "least", "most"), [("first", 1, 1), ("always", 6, 6)])
def test_the_name_stands_where_it_should(kind, least, most):
    teller = Teller(Telling(n_people=50, naming=kind))
    for person in range(50):
        told = teller.biography(person)
        named = sum(told.person.name in sentence.text for sentence in told.sentences)
        assert least <= named <= most
        assert told.person.name in told.sentences[0].text
    drawn = Teller(Telling(n_people=200, naming="drawn"))
    told = [drawn.biography(person) for person in range(200)]
    shares = [sum(t.person.name in s.text for t in told for s in t.sentences[1:]) / 1000]
    assert 0.4 < shares[0] < 0.6


def test_up_to_ends_where_the_answer_begins():
    teller = Teller(Telling(n_people=20))
    for person in range(20):
        told = teller.biography(person, 2)
        for attribute in ALL:
            before, answer = told.up_to(attribute), told.person.answers[attribute]
            assert told.text.startswith(f"{before} {answer}".lstrip())
            assert not before.endswith(" ")


def test_one_form_is_one_form_for_all():
    teller = Teller(Telling(n_people=30, n_forms=1, order="fixed"))
    texts = {str(without_facts(teller.biography(p))[0]) for p in range(30)}
    assert texts == {"('X was born on ', '.')"}
    with pytest.raises(ValueError, match="n_biographies = 3: must be at most n_forms = 2"):
        Telling(n_forms=2, n_biographies=3)


def test_pronouns_and_names_stand_in_their_case():
    assert pronouns(True)["Whose"] == "Her"
    assert pronouns(False)["whom"] == "him"
    words = naming("Ann Bell", False)
    assert (words["Whose"], words["their"], words["Who"]) == ("Ann Bell's", "his", "Ann Bell")

"""Sentences with the one right outcome, and sentences that must stay as they are."""

import pytest

from braidlm.data.paraphrase.rules.clauses import reorder
from braidlm.data.paraphrase.rules.packages import inflect
from braidlm.data.paraphrase.rules.sentence import Sentence
from braidlm.data.paraphrase.rules.voice import change_voice

REORDERED = [
    (
        "The school was closed because the roof was damaged.",
        "Because the roof was damaged, the school was closed.",
    ),
    (
        "When the island changed hands, the town was renamed.",
        "The town was renamed when the island changed hands.",
    ),
    ("Hartmann died from an aneurysm in 1873.", "In 1873, Hartmann died from an aneurysm."),
    ("In 2007, Lessing won the Nobel Prize.", "Lessing won the Nobel Prize in 2007."),
    ("On 28 March 1941, Woolf committed suicide.", "Woolf committed suicide on 28 March 1941."),
    (
        "He stayed with the show until the company closed the theatre.",
        "Until the company closed the theatre, he stayed with the show.",
    ),
]
NOT_REORDERED = [
    # A pronoun would come before its noun, or change whom it means.
    "When John arrived, he was tired.",
    "The singer retired because she was ill.",
    # A date that would hang on another verb.
    "In 1990, he met a man who lived in Paris.",
    "In 1990, they said that the war was over.",
    # Not a clause with a subject, not a date, two statements, no statement.
    "He sang after leaving the town.",
    "He went to Paris in a hurry.",
    "The drug extends the time before a patient needs support.",
    "The bay is named after the former ship James Munroe wrecked there.",
    "It was 1795 before the navy adopted lemons.",
    "He left because it rained and she stayed because it was warm.",
    'In 1990, he said "no".',
    "Did he leave in 1990?",
    "In 1887, was reorganized into a company.",
    "In 2004, she gave birth to their son, Roman Walker.",
    "In May 1990, he came in June 1991.",
]
PASSIVE_AND_ACTIVE = [
    ("It was discovered in 1949 by Walter Baade.", "Walter Baade discovered it in 1949."),
    ("PackageKit was created by Richard Hughes.", "Richard Hughes created PackageKit."),
    ("The songs are written by the band.", "The band writes the songs."),
    ("The songs are written by two brothers.", "Two brothers write the songs."),
    ("The novel will be published by the museum.", "The museum will publish the novel."),
    ("The house has been bought by the twins.", "The twins have bought the house."),
    ("He was beaten by the champion.", "The champion beat him."),
    ("The tower was originally built by the Romans.", "The Romans originally built the tower."),
    ("The Romans built the bridge in 1990.", "The bridge was built by the Romans in 1990."),
    ("The band writes the songs.", "The songs are written by the band."),
]
NOT_TURNED = [
    # "by" that is no doer.
    "The house was finished by 1990.",
    "The letters were written by hand.",
    "It was opened by cutting the ribbon.",
    # Verbs and objects that have no passive, or a stilted one.
    "The book costs five dollars.",
    "The team has a coach.",
    "John lost his keys.",
    "He wrote the book.",
    "The town lacks a school.",
    "The players hurt themselves.",
    # More than one verb, a negation, an apposition whose comma would be left open.
    "The Romans built the bridge and burned the town.",
    "The bridge was not built by the Romans.",
    "The bridge was built by the Romans and burned.",
    "It was bought by the Bridge Authority, an agency.",
    "The Métis today speak a language.",
]


@pytest.fixture
def parsed(pipeline):
    def parse(text: str) -> Sentence:
        [span] = pipeline(text).sents
        return Sentence(list(span))

    return parse


@pytest.mark.parametrize(("before", "after"), REORDERED)
def test_clauses_are_moved(parsed, before, after):
    assert reorder(parsed(before), {}) == after


@pytest.mark.parametrize("text", NOT_REORDERED)
def test_clauses_that_stay(parsed, text):
    assert reorder(parsed(text), {}) is None


@pytest.mark.parametrize(("before", "after"), PASSIVE_AND_ACTIVE)
def test_the_other_voice(parsed, before, after):
    assert change_voice(parsed(before), {}, inflect()) == after


@pytest.mark.parametrize("text", NOT_TURNED)
def test_the_voice_that_stays(parsed, text):
    assert change_voice(parsed(text), {}, inflect()) is None


def test_changed_words_are_moved_as_they_are_now(parsed):
    sentence = parsed("The umpire was beaten by the champion.")
    changed = {sentence.tokens[1].i: "referee"}
    assert change_voice(sentence, changed, inflect()) == "The champion beat the referee."

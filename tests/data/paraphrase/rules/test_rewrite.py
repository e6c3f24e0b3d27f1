"""The method as a whole: switches, seeds, several drafts, and what is missing."""

import sys

import pytest

from braidlm.data.paraphrase.folder import read_pairs
from braidlm.data.paraphrase.method import PassageError
from braidlm.data.paraphrase.methods import open_method
from braidlm.errors import InputError

from ..making import accepted, made, reasons
from .conftest import PIPELINE

TEXT = (
    "The motto was huge.  The bridge was built by the Romans.\n\n"
    "Hartmann died from an aneurysm on May 5, 1873. It has 12 ships."
)


@pytest.fixture
def opened(tmp_path, wordnet, pipeline):
    def make(*texts: str, seed: int = 0, **settings):
        folder = tmp_path / "texts"
        folder.mkdir(exist_ok=True)
        for number, text in enumerate(texts):
            (folder / f"{number}.txt").write_text(text)
        given = {"pipeline": PIPELINE, "wordnet": str(wordnet), "min_frequency": 0.0} | settings
        return open_method("rules", str(folder), given, {}, seed).method

    return make


def test_all_rules_and_the_space_between_sentences(opened, tmp_path):
    made(opened(TEXT, synonym_rate=1.0), tmp_path / "out")
    [pair] = read_pairs(tmp_path / "out")
    assert pair.paraphrase == (
        "The slogan was vast.  The Romans built the bridge.\n\n"
        "On 5 May 1873, Hartmann died from an aneurysm. It has twelve ships."
    )
    used = {"synonyms": 1.0, "voice": 1.0, "clauses": 1.0, "dates": 1.0, "numbers": 1.0}
    assert pair.scores.items() >= {**used, "sentences_changed": 1.0}.items()


@pytest.mark.parametrize(
    ("rule", "changed"),
    [
        ("synonyms", {"motto": "slogan", "huge": "vast", "built": "constructed"}),
        ("voice", {"The bridge was built by the Romans": "The Romans built the bridge"}),
        (
            "clauses",
            {
                "Hartmann died from an aneurysm on May 5, 1873": (
                    "On May 5, 1873, Hartmann died from an aneurysm"
                )
            },
        ),
        ("dates", {"May 5, 1873": "5 May 1873"}),
        ("numbers", {"12": "twelve"}),
    ],
)
def test_each_rule_can_be_switched_on_alone(opened, rule, changed):
    method = opened(TEXT, rules=[rule], synonym_rate=1.0)
    [[draft]] = method.paraphrase(list(method.passages()))
    expected = TEXT
    for before, after in changed.items():
        expected = expected.replace(before, after)
    assert draft.text == expected


def test_a_passage_is_written_the_same_whatever_stands_beside_it(opened, tmp_path):
    many = [f"He intentionally fell {word}." for word in ("down", "here", "again", "there")]
    made(opened(*many), tmp_path / "one")
    made(opened(*many), tmp_path / "two")
    assert accepted(tmp_path / "one") == accepted(tmp_path / "two")
    method = opened(*many)
    alone = method.paraphrase(list(method.passages())[2:3])
    assert alone[0][0].text == dict(accepted(tmp_path / "one"))["2.txt#0"]


def test_several_drafts_differ(opened):
    method = opened("He intentionally fell.", drafts=20, synonym_rate=1.0)
    [found] = method.paraphrase(list(method.passages()))
    assert sorted(d.text for d in found) == ["He deliberately fell.", "He purposely fell."]


def test_a_text_that_no_rule_fits_says_so(opened, tmp_path):
    made(opened("He came."), tmp_path / "out")
    assert reasons(tmp_path / "out") == {"0.txt#0": "failed: no rule applies"}
    method = opened("He came.")
    assert isinstance(method.paraphrase(list(method.passages()))[0], PassageError)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"wordnet": ""}, "the rule 'synonyms' needs --set wordnet=DIR"),
        ({"wordnet": "nowhere"}, "wordnet = 'nowhere'"),
        ({"pipeline": "no_such"}, "pipeline = 'no_such': is neither an installed spaCy pipeline"),
        ({"rules": ["synonym"]}, "rules.0 = 'synonym'"),
        ({"rules": []}, "rules = "),
    ],
)
def test_what_is_missing_or_wrong_is_said(opened, settings, says):
    with pytest.raises(InputError, match=says):
        opened("x", **settings)


@pytest.mark.parametrize("package", ["spacy", "lemminflect", "wordfreq"])
def test_a_package_that_is_not_installed_is_named(opened, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"needs the package '{package}'"):
        opened("x")

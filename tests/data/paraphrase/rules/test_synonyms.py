"""Synonyms in the right part of speech and form, and words that keep theirs."""

import pytest

from braidlm.data.paraphrase.rules.lexicon import read_lexicon
from braidlm.data.paraphrase.rules.packages import frequency, inflect
from braidlm.data.paraphrase.rules.sentence import text
from braidlm.data.paraphrase.rules.synonyms import Synonyms, opens_with_a_vowel
from braidlm.data.seeding import generator
from braidlm.errors import InputError

REPLACED = [
    ("The goalkeepers met the umpires.", "The goalies met the referees."),
    ("The motto was huge.", "The slogan was vast."),
    ("They built the tower.", "They constructed the tower."),
    ("They are building a tower.", "They are constructing a tower."),
    ("The tower was built quickly.", "The tower was constructed quickly."),
    ("Mainly it rained.", "Chiefly it rained."),
    ("He saw an umpire and a huge wall.", "He saw a referee and a vast wall."),
    ("A huge wall fell.", "A vast wall fell."),
    ("He met a renowned man.", "He met a famed man."),
]
KEPT = [
    "The doctor slept.",  # two senses, no word that stands in both
    "The physician slept.",  # "doctor" has a sense of its own
    "He owns an automobile.",  # so has "car"
    "They huge it.",  # an adjective alone
    "The build was slow.",  # as a noun it is not in the lexicon
    "It took merely a year.",  # "but" is a conjunction first
    "He built.",  # without an object
    "They built it of wood.",  # a synonym might not take "of"
    "They built up a fortune.",
    "He came from Motto.",
    "The motto holder left.",  # a compound that is an entry of its own
    "The mottos-to-be fell.",
    "The largest one was HUGE.",
]


@pytest.fixture
def rewrite(pipeline, wordnet):
    def write(sentence: str, rate: float = 1.0, seed: int = 0, **settings) -> str:
        given = {"parts": "nvar", "max_other_senses": 0, "min_frequency": 0.0} | settings
        synonyms = Synonyms(read_lexicon(str(wordnet)), inflect(), frequency(), **given)
        tokens = list(pipeline(sentence))
        return text(tokens, synonyms.choose(tokens, rate, generator(seed, "test")))

    return write


@pytest.mark.parametrize(("before", "after"), REPLACED)
def test_words_that_have_a_synonym(rewrite, before, after):
    assert rewrite(before) == after


@pytest.mark.parametrize("sentence", KEPT)
def test_words_that_keep_their_place(rewrite, sentence):
    assert rewrite(sentence) == sentence


def test_each_bound_is_held(rewrite):
    assert rewrite("The motto was huge.", parts="a") == "The motto was vast."
    assert rewrite("The physician slept.", max_other_senses=1) == "The doctor slept."
    assert rewrite("The goalkeeper slept.", min_frequency=7.0) == "The goalkeeper slept."


def test_a_choice_depends_on_the_seed_alone(rewrite):
    sentence = "He intentionally fell."
    found = {rewrite(sentence, seed=seed) for seed in range(20)}
    assert found == {"He purposely fell.", "He deliberately fell."}
    assert rewrite(sentence, seed=3) == rewrite(sentence, seed=3)
    kept = [rewrite(sentence, rate=0.5, seed=seed) == sentence for seed in range(40)]
    assert 10 < sum(kept) < 30


@pytest.mark.parametrize(
    ("word", "expected"),
    [("hour", True), ("union", False), ("unimportant", True), ("use", False), ("owl", True)],
)
def test_articles(word, expected):
    assert opens_with_a_vowel(word) is expected


class TestLexicon:
    def test_wordnet_of_its_own_files_is_the_same(self, tmp_path, wordnet):
        lines = {
            "noun": "00001740 03 n 02 physician 0 doctor 1 001 @ 00 n 0000 | who heals",
            "verb": "00002000 29 v 02 build 0 construct 0 000 01 + 08 00 | make",
            "adj": "00003000 00 s 02 galore(ip) 0 motor_car 0 000 | much",
            "adv": "00004000 02 r 01 mainly 0 000 | for the most part",
        }
        for name, line in lines.items():
            (tmp_path / f"data.{name}").write_text(f"  1 This software\n{line}\n")
        lexicon = read_lexicon(str(tmp_path))
        assert lexicon.synonyms("physician", "n", 0) == ("doctor",)
        assert lexicon.synonyms("build", "v", 0) == ("construct",)
        assert lexicon.synonyms("mainly", "r", 0) == ()
        assert lexicon.has_compound("motor", "car")
        (tmp_path / "data.adv").unlink()
        with pytest.raises(InputError, match=r"holds no file data\.adv"):
            read_lexicon(str(tmp_path))

    @pytest.mark.parametrize(
        ("line", "says"),
        [
            ('{"id": "1-n"}', 'needs "id"'),
            ('{"id": "1-x", "lemmas": ["a"]}', "must end in -n, -v, -a, -s or -r"),
            ("oops", "line 1 is not JSON"),
        ],
    )
    def test_what_is_no_wordnet_is_refused(self, tmp_path, line, says):
        (tmp_path / "x.jsonl").write_text(line + "\n")
        with pytest.raises(InputError, match=says):
            read_lexicon(str(tmp_path / "x.jsonl"))

    def test_nothing_there_is_refused(self):
        with pytest.raises(InputError, match=r"wordnet = 'nowhere': give the folder"):
            read_lexicon("nowhere")

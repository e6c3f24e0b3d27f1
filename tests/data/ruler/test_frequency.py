import re
from collections import Counter

import numpy as np
import pytest

from braidlm.data.ruler.frequency import CommonWords, FrequentWords
from braidlm.data.ruler.variables import Variables
from braidlm.data.ruler.words import CITIES, load_words
from braidlm.data.seeding import generator
from braidlm.errors import InputError


def rng(number=0):
    return generator(number, "frequency")


def lists(item):
    """The words of the two numbered lists of cwe."""
    texts = item.prompt.split("the ones that appear most often.\n")[1:]
    texts = [text[: text.index("\nQuestion")] for text in texts]
    return [re.split(r"(?:^| )\d+\. ", text)[1:] for text in texts]


@pytest.mark.parametrize(
    ("length", "common", "uncommon", "example"),
    [(8192, 30, 3, (40, 10, 3)), (2048, 6, 1, (20, 3, 1))],
)
def test_common_words_come_as_often_as_published(length, common, uncommon, example):
    item = CommonWords(load_words("built-in"), length).draw(rng(), 50)
    shown, asked = lists(item)
    assert len(item.answers) == 10
    counts = Counter(asked)
    assert {word for word, n in counts.items() if n == common} == set(item.answers)
    assert sorted(counts.values()) == [uncommon] * 40 + [common] * 10
    n, often, seldom = example
    assert sorted(Counter(shown).values()) == [seldom] * (n - 10) + [often] * 10
    # The example is answered: its ten words, numbered.
    said = item.prompt.split("in the list are:")[1].split("\n")[0]
    answered = re.split(r"(?:^| )\d+\. ", said)[1:]
    assert {w for w, c in Counter(shown).items() if c == often} == set(answered)


def test_coded_words_come_by_zipfs_law():
    made = FrequentWords(8192)
    item = made.draw(rng(), 3000)
    text = item.prompt[item.prompt.index("coded words. ") + 13 : item.prompt.index("\nQuestion")]
    counts = Counter(text.split())
    assert counts.most_common(1)[0][0] == "..."
    ranked = [n for _, n in counts.most_common()]
    expected = [int(3000 * k**-2.0 / (np.pi**2 / 6)) for k in range(1, 8192 // 50 + 1)]
    assert ranked == [n for n in expected if n]
    assert [word for word, _ in counts.most_common(4)][1:] == list(item.answers)
    assert all(re.fullmatch("[a-z]{6}", word) for word in item.answers)
    least = made.sizes(8192).least
    for size in range(least, least + 200):
        found = Counter(made.draw(rng(), size).prompt.split())
        assert len({found[word] for word in item.answers}) == 3


def test_words_that_count_are_strewn_evenly():
    """Common words among uncommon ones, and coded words among others: neither comes in runs."""
    common = CommonWords(load_words("built-in"), 8192)
    coded, shares = FrequentWords(8192), ([], [])
    for seed in range(20):
        item = common.draw(rng(seed), 50)
        words = lists(item)[1]
        is_common = np.isin(words, item.answers)
        shares[0].append(is_common[: len(words) // 2].sum() / is_common.sum())
        item = coded.draw(rng(seed), 1000)
        text = item.prompt[item.prompt.index("coded words. ") + 13 :]
        words = text[: text.index("\nQuestion")].split()
        is_first = np.array(words) == item.answers[0]
        shares[1].append(is_first[: len(words) // 2].sum() / is_first.sum())
    for found in shares:
        assert np.mean(found) == pytest.approx(0.5, abs=0.02)
        assert np.std(found) < 0.06


def test_a_chain_s_links_stand_anywhere():
    """The k-th of five places drawn evenly lies at k / 6 of the text, on average."""
    made, places = Variables(lambda text: len(text) // 4), []
    for seed in range(300):
        prompt = made.draw(rng(seed), 60).prompt
        text = prompt[prompt.rindex("Memorize and track") :]
        lines = re.findall(r"VAR|The grass", text[: text.rindex("\nQuestion")])
        # Each link but the first names two variables.
        firsts = [m.start() for m in re.finditer(r"VAR \w+ =", text)]
        places.append([text[:at].count("The grass") / lines.count("The grass") for at in firsts])
    assert np.mean(places, axis=0) == pytest.approx(np.arange(1, 6) / 6, abs=0.03)


def test_a_chain_has_its_hops_in_order():
    made = Variables(lambda text: len(text) // 4)
    for i in range(20):
        item = made.draw(rng(i), 30)
        text = item.prompt[item.prompt.rindex("Memorize and track") :]
        links = re.findall(r"VAR (\w+) = (?:VAR )?(\w+) ", text)
        assert [name for name, _ in links] == list(item.answers)
        assert [old for _, old in links[1:]] == list(item.answers)[:-1]
        assert 10_000 <= int(links[0][1]) < 99_999
        assert f"5 variables are assgined the value {links[0][1]}, they are: " in item.prefix
        assert all(re.fullmatch("[A-Z]{5}", name) for name in item.answers)
        assert len(set(item.answers)) == 5
        shown = item.prompt[: item.prompt.rindex("Memorize and track")]
        example = re.findall(r"VAR ([A-Z]{3}) = ", shown)
        assert len(example) == 5
        assert shown.endswith(f"they are:  {' '.join(example)}\n\n\n\n")
        assert shown.count("The grass") % 5 == 0 or shown.count("The grass") == 6


@pytest.mark.parametrize("name", ["built-in", "wonderwords"])
def test_words_differ_and_make_keys(name):
    if name == "wonderwords":
        pytest.importorskip("wonderwords")
    words = load_words(name)
    for kind in (words.nouns, words.adjectives, words.verbs):
        assert len(set(kind)) == len(kind) > 100
    assert words.pair(0) == f"{words.adjectives[0]}-{words.nouns[0]}"
    assert words.pair(words.n_pairs - 1) == f"{words.adjectives[-1]}-{words.nouns[-1]}"
    assert len(words.all()) > 600
    assert len(set(CITIES)) == len(CITIES)


def test_unknown_words_are_refused():
    with pytest.raises(InputError, match="must be 'built-in' or 'wonderwords'"):
        load_words("dictionary")

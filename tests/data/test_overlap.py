import numpy as np
import pytest

from braidlm.data.ngrams import Unit
from braidlm.data.overlap import Item, Search, TrainingText, comparison
from braidlm.errors import InputError

from .test_ngrams import words_of

RNG = np.random.default_rng(1)


def sentence(n):
    return " ".join(f"w{i}" for i in RNG.integers(0, 5000, n))


def search(items, training, unit: Unit = "words", n=None):
    compared = comparison("task", items, unit, n)
    [told] = Search([compared], None).run(TrainingText(f"d{i}", t) for i, t in enumerate(training))
    return told


def test_planted_overlaps_are_found_with_their_places():
    training = [sentence(300) for _ in range(40)]
    items = [Item(f"q{i}", (sentence(40),)) for i in range(30)]
    stolen = training[7].split()[100:115]  # 15 words in a row: three 13-grams
    items[4] = Item("q4", (f"{sentence(20)} {' '.join(stolen).upper()}! {sentence(20)}",))
    items[9] = Item("q9", (sentence(10), " ".join(training[20].split()[:30])))
    items[11] = Item("q11", (" ".join([*training[3].split()[:12], sentence(20)]),))  # one too few
    items[12] = Item("q12", ("only five words stand here",))
    told = search(items, training, n=13)
    assert (told["n"], told["n_items"], told["n_too_short"]) == (13, 30, 1)
    assert told["n_found"] == 2
    assert told["share"] == 2 / 29
    assert told["stderr"] == pytest.approx((2 / 29 * 27 / 29 / 29) ** 0.5)
    first, second = told["worst"]
    assert (first["item"], first["training"], first["share"]) == ("q9", "d20", 1.0)
    assert (second["item"], second["training"]) == ("q4", "d7")
    assert (second["found"], second["of"]) == (3, 20 + 15 + 20 - 12)
    assert second["ngram"] == " ".join(stolen[:13])


def test_it_is_the_plain_loop():
    """Short n-grams of few words, so that many are found by chance."""
    few = [f"w{i}" for i in range(6)]
    texts = [" ".join(RNG.choice(few, 20)) for _ in range(30)]
    training = [" ".join(RNG.choice(few, 50)) for _ in range(4)]
    told = search([Item(str(i), (t,)) for i, t in enumerate(texts)], training, n=4)

    def slow(text):
        w = words_of(text)
        return [tuple(w[i : i + 4]) for i in range(len(w) - 3)]

    there = {g for t in training for g in slow(t)}
    counts = [sum(g in there for g in slow(t)) for t in texts]
    assert told["n_found"] == sum(c > 0 for c in counts)
    assert told["n_grams_share"] == pytest.approx(sum(counts) / (30 * 17))
    by_item = {w["item"]: w["found"] for w in told["worst"]}
    assert by_item == {i: counts[int(i)] for i in by_item}
    assert len(by_item) == 20
    for worst in told["worst"]:
        holding = [i for i, t in enumerate(training) if tuple(worst["ngram"].split()) in slow(t)]
        assert worst["training"] == f"d{holding[0]}"  # the first of several


@pytest.mark.parametrize(
    ("lengths", "n"), [([40] * 20, 13), ([9] * 20, 9), ([3] * 20, 8), ([10] * 2 + [40] * 98, 13)]
)
def test_n_follows_the_items_lengths(lengths, n):
    told = search([Item(str(i), (sentence(k),)) for i, k in enumerate(lengths)], ["x"])
    assert told["n"] == n
    assert told["n_too_short"] == sum(k < n for k in lengths)


def test_characters_ignore_how_words_are_parted():
    text = "In seventeen hundred and eighty-nine the Bastille was stormed by Parisians."
    glued = text.replace(" ", "").replace("-", " ")
    assert search([Item("a", (text,))], [glued], "characters")["n_found"] == 1
    assert search([Item("a", (text,))], [glued], "words", 8)["n_found"] == 0


def test_items_that_are_all_too_short_have_no_share():
    told = search([Item("a", ("two words",)), Item("b", ("",))], ["two words " * 9], n=13)
    assert (told["share"], told["stderr"], told["n_too_short"]) == (None, None, 2)
    assert told["worst"] == []


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="'task' has no item to compare"):
        search([], ["x"])
    for n in (0, -1, 300):
        with pytest.raises(InputError, match=f"n = {n}: n-grams must have 1 to 256 words"):
            search([Item("a", ("x",))], ["x"], n=n)

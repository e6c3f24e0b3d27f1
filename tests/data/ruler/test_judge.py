"""Our texts against lm-evaluation-harness's RULER: the same words around the same pieces."""

import json
import re
from collections import Counter

import numpy as np
import pytest

from braidlm.data.ruler import documents, frequency, needles, variables
from braidlm.data.ruler.haystack import Haystack
from braidlm.data.ruler.items import count_with, fill
from braidlm.data.ruler.words import Words, load_words
from braidlm.data.tokenizer import ByteTokenizer

from .oracle import needles as needles_of

pytestmark = pytest.mark.slow
WORDS = load_words("built-in")
ESSAY = [word for i in range(900) for word in f"This is sentence {i} of an essay .".split()]
PUBLISHED = {
    "niah_single_1": {"type_haystack": "repeat"},
    "niah_single_2": {"type_haystack": "essay"},
    "niah_single_3": {"type_haystack": "essay", "type_needle_v": "uuids"},
    "niah_multikey_1": {"type_haystack": "essay", "num_needle_k": 4},
    "niah_multikey_2": {"type_haystack": "needle"},
    "niah_multikey_3": {
        "type_haystack": "needle",
        "type_needle_k": "uuids",
        "type_needle_v": "uuids",
    },
    "niah_multivalue": {"type_haystack": "essay", "num_needle_v": 4},
    "niah_multiquery": {"type_haystack": "essay", "num_needle_q": 4},
}


class Counted(ByteTokenizer):
    """Both tokenizers in one: a token every four characters."""

    def encode(self, text):
        return np.zeros(len(text) // 4, dtype=np.int64)

    def __call__(self, text):
        return type("Out", (), {"input_ids": [0] * (len(text) // 4)})


class SmallWords:
    """In place of wonderwords' millions of pairs."""

    def __init__(self):
        names = ("nouns", "adjectives", "verbs", "noun", "adjective", "verb")
        lists = [list(WORDS.nouns), list(WORDS.adjectives), list(WORDS.verbs)] * 2
        self._categories = dict(zip(names, lists, strict=True))


@pytest.fixture(scope="module")
def judge():
    for package in ("lm_eval", "wonderwords", "nltk", "scipy"):
        pytest.importorskip(package)
    import nltk
    import wonderwords

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wonderwords, "RandomWord", SmallWords)
        patch.setattr(nltk.data, "find", lambda name: name)  # no model of sentences is downloaded
        from lm_eval.tasks.ruler import (
            cwe_utils,
            fwe_utils,
            niah_utils,
            prepare_niah,
            qa_utils,
            vt_utils,
        )

        patch.undo()
        sentences = re.compile(r"(?<=[.]) (?=[A-Z])")
        patch.setattr(prepare_niah, "sent_tokenize", sentences.split)
        modules = niah_utils, prepare_niah, vt_utils, cwe_utils, fwe_utils, qa_utils
        yield dict(zip(("templates", "niah", "vt", "cwe", "fwe", "qa"), modules, strict=True))


def theirs(judge, name, length):
    haystack = {"repeat": needles.NOISE, "needle": judge["niah"].NEEDLE, "essay": ESSAY}
    fields = {"type_needle_k": "words", "type_needle_v": "numbers"} | PUBLISHED[name]
    return judge["niah"].generate_samples(
        haystack[fields["type_haystack"]],
        TOKENIZER=Counted(),
        max_seq_length=length,
        template=judge["templates"].TEMPLATE,
        num_samples=4,
        **fields,
    )


def pieces(text, kind):
    """The text without its needles and keys, and the needles."""
    found = needles_of(text)
    for key, value in found:
        text = text.replace(f"is: {value}.", "is: VALUE.").replace(f"for {key} ", "for KEY ")
        text = text.replace(f"{key}, ", "KEY, ").replace(f"and {key} ", "and KEY ")
    needle = f"One of the special magic {kind.values} for KEY is: VALUE."
    if kind.haystack == "essay":  # a needle stands between two spaces, of parts that may be empty
        text = text.replace(f" {needle} ", " ").replace(f" {needle} ", " ")
        assert needle not in text
        return text.replace("\n ", "\n").replace(" \n", "\n").replace("  ", " "), found
    return text.replace(needle + "\n", "").replace("\n" + needle, ""), found


@pytest.mark.parametrize("length", [1500, 6000])
@pytest.mark.parametrize("name", PUBLISHED)
def test_needles_stand_in_the_same_words(judge, name, length):
    kind = needles.KINDS[name]
    made = needles.Needles(kind, WORDS, Haystack(iter(ESSAY)))
    for sample in theirs(judge, name, length):
        bare, found = pieces(sample["input"], kind)
        size = len(found) - kind.n_keys * kind.n_values
        if kind.haystack == "noise":
            size = sample["input"].count(needles.NOISE)
        if kind.haystack == "essay":
            size = next(
                n for n in range(10, len(ESSAY) + 1, 10) if " ".join(ESSAY[:n]) + "\n" in bare
            )
        item = made.draw(np.random.default_rng(0), size)
        ours, mine = pieces(item.text, kind)
        assert ours == bare
        assert len(mine) == len(found)
        assert len(item.answers) == len(sample["outputs"])
        prefix = sample["gen_prefix"]
        keys = (
            re.findall(r"for (.*) mentioned", prefix)[0],
            re.findall(r"for (.*) mentioned", item.prefix)[0],
        )
        assert item.prefix == " " + prefix.replace(*keys)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_text_grows_as_far(judge, name):
    kind = needles.KINDS[name]
    made, length = needles.Needles(kind, WORDS, Haystack(iter(ESSAY))), 6000

    def draw(size):
        return made.draw(np.random.default_rng(size), size)

    item = fill([draw], made.sizes(length), count_with(Counted()), length, name)[0]
    sample = theirs(judge, name, length)[0]
    # Theirs does not count the answer's prefix, and may therefore be a step longer.
    step = {"noise": 25 * 91, "essay": 500 * 6, "needle": 25 * 110}[kind.haystack]
    assert abs(len(item.text) - len(sample["input"])) <= step


def test_variables_stand_in_the_same_words(judge):
    module, counted = judge["vt"], Counted()
    fields = {"tokenizer": counted, "num_samples": 1}
    example = module.sys_vartrack_w_noise_random(max_seq_length=500, incremental=5, **fields)[0]
    sample = module.sys_vartrack_w_noise_random(max_seq_length=6000, icl_example=example, **fields)[
        0
    ]

    def bare(text):
        text = re.sub(r"VAR \w+ = (?:VAR \w+ |\d+) ", "", text)
        text = re.sub(r"they are:  ?(?:[A-Z]{3} ?)+", "they are: NAMES", text)
        return re.sub(r"\d{5}", "VALUE", text)

    whole = sample["input"] + " " + sample["gen_prefix"] + " "
    size = whole[whole.rindex("Memorize") :].count(needles.NOISE)
    made = variables.Variables(count_with(counted))
    item = made.draw(np.random.default_rng(0), size)
    assert bare(item.prompt) == bare(whole)
    assert len(item.answers) == len(sample["outputs"]) == 5
    assert item.n_new == 30


@pytest.mark.parametrize("length", [2048, 8192])
def test_common_words_stand_in_the_same_words(judge, length):
    example, text, answer = judge["cwe"].generate_input_output(60, length)
    item = frequency.CommonWords(WORDS, length).draw(np.random.default_rng(0), 60)

    def bare(text):
        return re.sub(r"(\d+)\. [a-z]+", r"\1. WORD", text)

    assert bare(item.prompt) == bare(example + "\n" + text)
    assert len(item.answers) == len(answer)
    assert item.n_new == judge["cwe"].CONFIG["tokens_to_generate"]


@pytest.mark.parametrize("size", [200, 3000])
def test_coded_words_come_as_often(judge, size):
    text, answer, _ = judge["fwe"].generate_input_output(
        10**6, Counted(), num_words=size, vocab_size=8192 // 50
    )
    item = frequency.FrequentWords(8192).draw(np.random.default_rng(0), size)

    def bare(text):
        start, end = text.index("coded words. ") + 13, text.index("\nQuestion")
        counts = Counter(text[start:end].split(" "))
        return text[:start] + text[end:], sorted(counts.values()), counts["..."]

    assert bare(item.prompt) == bare(text)
    assert len(item.answers) == len(answer) == 3
    assert item.n_new == judge["fwe"].CONFIG["tokens_to_generate"]


def test_documents_stand_in_the_same_words(judge, tmp_path):
    rows = [
        {"title": title, "context": f"{title} {i}.", "question": f"Which {title} {i}?"}
        | {"answers": [f"{title}{i}"]}
        for title in ("red", "blue", "green")
        for i in range(6)
    ]
    path = tmp_path / "squad.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    library = documents.read_library(str(path))
    qas = [
        {"query": q.query, "outputs": list(q.answers), "context": list(q.gold)}
        | {"more_context": list(q.more)}
        for q in library.questions
    ]

    def bare(text):
        found = dict(re.findall(r"Document (\d+):\n(.*?)\n\n", text))
        for number, shown in found.items():
            text = text.replace(f"Document {number}:\n{shown}\n", f"Document {number}:\nTEXT\n")
        return text, len(set(found.values()))

    for size in (1, 4, 6, 9, 18, 40):
        text, answers = judge["qa"].generate_input_output(
            2, size, qas=qas, docs=list(library.documents)
        )
        item = library.draw(np.random.default_rng(size), size, 2)
        assert bare(item.text) == bare(text)
        assert list(item.answers) == answers
        assert item.prefix.strip() == judge["qa"].CONFIG["answer_prefix"]


def test_the_package_words_are_theirs():
    wonderwords = pytest.importorskip("wonderwords")
    found: Words = load_words("wonderwords")
    known = wonderwords.RandomWord()._categories
    assert set(found.nouns) == set(known["nouns"])
    assert set(found.all()) == {*known["noun"], *known["adjective"], *known["verb"]}

"""Phonebooks asked of models that look up, that guess, and that mix entries up."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from braidlm.arch import Recipe
from braidlm.arch.tasks import PhonebookTask
from braidlm.data.phonebook import Lookup
from braidlm.data.tokenizer import ByteTokenizer
from braidlm.errors import InputError
from braidlm.generate.mode import inference
from braidlm.model import HybridLM
from braidlm.tasks import describe, run_task, scoring
from braidlm.tasks.greedy import answer
from braidlm.tasks.phonebook import (
    PhonebookWork,
    agreement,
    is_nearer,
    nearer_by_chance,
    read_number,
)
from tests.tasks.models import SPOKEN, VOCAB, Speaker, recipe

BYTES = ByteTokenizer()
SMALL = PhonebookTask(lengths=(220, 280), orders=("standard", "reversed"), n_items=12)


class Reader(Speaker):
    """Reads the text as a person does."""

    def hears(self, text: str) -> bool:
        return ":" in text.split("\n")[-1] and ":" in text.rpartition("\n\n")[0]

    def say(self, text: str) -> str:
        """What follows a text that ends in the middle of an answer."""
        book = text.split("\n\n")[-2]
        name, _, said = text.split("\n")[-1].partition(":")
        return f" {dict(line.split(': ') for line in book.split(chr(10)))[name]}\n"[len(said) :]


@pytest.fixture
def config(tmp_path) -> Recipe:
    return recipe(tmp_path)


def _run(task: PhonebookTask, model: nn.Module, config: Recipe) -> dict:
    return run_task(task, model, BYTES, config)


def test_a_reader_solves_it(config):
    found = _run(SMALL, Reader(), config)
    assert (found["metric"], found["value"], found["n"]) == ("exact", 1.0, 48)
    assert 0 < found["stderr"] < 1 / 13
    metrics = {name: entry["value"] for name, entry in found["metrics"].items()}
    assert (metrics["digits"], metrics["other_entry"], metrics["nearer_other"]) == (1, 0, 0)
    # Eight tokens, the space and seven digits, each with one logit of SPOKEN among zeros.
    assert metrics["answer_nll"] == pytest.approx(8 * math.log1p((VOCAB - 1) / math.exp(SPOKEN)))
    lengths = found["tables"]["by_length"]
    assert [(row["order"], row["length"], row["n"]) for row in lengths] == [
        ("standard", 220, 12),
        ("standard", 280, 12),
        ("reversed", 220, 12),
        ("reversed", 280, 12),
    ]
    assert lengths[1]["n_entries"] > lengths[0]["n_entries"] + 2
    assert (found["seq_len"], found["trained_seq_len"], found["is_extrapolated"]) == (280, 32, True)


class Guesser(Reader):
    """Random digits, drawn anew for every answer."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(0)

    def say(self, text: str) -> str:
        said = text.split("\n")[-1].partition(":")[2]
        return " " if not said else str(self.rng.integers(10)) if len(said) < 8 else "\n"


def test_a_guess_has_a_tenth_of_the_digits_and_no_number(config):
    task = PhonebookTask(lengths=(240,), n_items=150)
    found = _run(task, Guesser(), config)
    metrics = found["metrics"]
    assert metrics["exact"]["value"] == 0
    assert metrics["other_entry"]["value"] == 0
    assert metrics["digits"]["value"] == pytest.approx(0.1, abs=3 * metrics["digits"]["stderr"])
    assert metrics["digits"]["stderr"] == pytest.approx(math.sqrt(0.09 / 7 / 150), rel=0.2)
    assert metrics["digit_chance"] == {"value": 0.1, "stderr": None, "n": 150, "unit": "share"}
    by_digit = found["tables"]["by_digit"]
    assert [row["digit"] for row in by_digit] == [1, 2, 3, 4, 5, 6, 7]
    assert all(abs(row["right"] - 0.1) < 4 * row["stderr"] for row in by_digit)
    # What a guess does to other entries is what is said of chance.
    nearer, chance = metrics["nearer_other"], metrics["nearer_other_chance"]["value"]
    assert 0.3 < chance < 1
    assert nearer["value"] == pytest.approx(chance, abs=3.5 * nearer["stderr"])


class NextDoor(Reader):
    """Gives the number of the line after the right one (the first one's after the last)."""

    def say(self, text: str) -> str:
        lines = text.split("\n\n")[-2].split("\n")
        name, _, said = text.split("\n")[-1].partition(":")
        at = [line.partition(":")[0] for line in lines].index(name)
        return f" {lines[(at + 1) % len(lines)].partition(': ')[2]}\n"[len(said) :]


def test_anothers_number_is_told_apart_from_nonsense(config):
    found = _run(PhonebookTask(lengths=(240,), n_items=40), NextDoor(), config)
    metrics = {name: entry["value"] for name, entry in found["metrics"].items()}
    assert (metrics["exact"], metrics["other_entry"], metrics["nearer_other"]) == (0, 1, 1)
    assert 0 < metrics["digits"] < 0.25


class FirstHalf(Reader):
    """Knows the entries of the first half of the book alone, and the first digits of the others."""

    def say(self, text: str) -> str:
        right = super().say(text)
        lines = text.split("\n\n")[-2].split("\n")
        name, _, said = text.split("\n")[-1].partition(":")
        at = [line.partition(":")[0] for line in lines].index(name)
        return right if (at + 0.5) / len(lines) < 0.5 or len(said) < 4 else "x"


def test_depth_and_digit_say_where_it_fails(config):
    task = PhonebookTask(lengths=(300,), n_items=60, depth_bins=2)
    found = _run(task, FirstHalf(), config)
    first, second = found["tables"]["by_depth"]
    assert (first["start"], first["end"], first["exact"]) == (0, 0.5, 1)
    assert (second["start"], second["end"], second["exact"]) == (0.5, 1, 0)
    assert second["digits"] == pytest.approx(3 / 7)
    assert first["n"] + second["n"] == 60
    by_digit = [row["right"] for row in found["tables"]["by_digit"]]
    assert by_digit[:3] == [1, 1, 1]
    assert by_digit[3:] == pytest.approx([first["n"] / 60] * 4)
    assert found["value"] == pytest.approx(first["n"] / 60)


def test_rows_say_what_was_given(config):
    work = PhonebookWork(SMALL, BYTES, config)
    model = NextDoor()
    with inference(model):
        rows = work.score(model, work.batches[0])
    item = work.items[3]
    assert rows[3]["id"] == "standard/220/3"
    following = item.numbers[(item.asked[-1] + 1) % len(item.numbers)]
    assert read_number(rows[3]["answer"]) == following
    assert rows[3]["right"] == "".join(map(str, agreement(following, item.number)))
    assert (rows[3]["place"], rows[3]["n_entries"]) == (item.asked[-1], len(item.numbers))


def test_greedy_answers_are_those_of_a_full_forward_pass_each(config):
    """Prompts and answers of several lengths: the state is shared, and copied before it is used."""
    model = HybridLM(config.spec)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(VOCAB, size=n) for n in (9, 30, 17)]
    answers = [rng.integers(VOCAB, size=n) for n in (4, 1, 6)]
    with inference(model):
        losses, given = answer(model, prompts, answers, 5)
        for prompt, wanted, loss, said in zip(prompts, answers, losses, given, strict=True):
            whole = torch.from_numpy(np.concatenate([prompt, wanted]))[None]
            logits = model.head(model(whole).hidden)[0].log_softmax(-1)[len(prompt) - 1 : -1]
            truth = -logits.gather(-1, whole[0, len(prompt) :, None]).sum()
            assert loss == pytest.approx(float(truth), abs=1e-4)
            tokens = list(prompt)
            for _ in range(5):
                hidden = model(torch.tensor([tokens])).hidden[0, -1]
                tokens.append(int(model.head(hidden).argmax()))
            assert said == tokens[len(prompt) :]


def test_batches_change_nothing(config, monkeypatch):
    model = HybridLM(config.spec)
    task = SMALL.model_copy(update={"n_items": 7})
    whole = _run(task, model, config)
    monkeypatch.setattr(scoring, "TOKENS_AT_ONCE", 3 * 280)
    assert [len(b) for b in PhonebookWork(task, BYTES, config).batches] == [3, 3, 1] * 4
    parts = _run(task, model, config)
    for name in ("exact", "digits", "answer_nll"):
        assert parts["metrics"][name]["value"] == pytest.approx(
            whole["metrics"][name]["value"], abs=1e-5
        )


@pytest.mark.parametrize(
    ("text", "number"),
    [(" 0123456\nAnn", "0123456"), ("55501", "55501"), (" 55x", "55"), (" ٣", ""), ("", "")],
)
def test_a_number_is_read_up_to_what_is_no_digit(text, number):
    assert read_number(text) == number


def test_agreement_is_counted_in_place():
    assert agreement("1234", "1334") == [1, 0, 1, 1]
    assert agreement("12", "1234") == [1, 1, 0, 0]
    assert agreement("", "12") == [0, 0]
    assert is_nearer("1934", "1212", ["1934", "0000"])
    assert not is_nearer("1212", "1214", ["1912", "0000"])  # as near as another is not nearer


def test_chance_of_being_nearer_to_another_by_hand():
    """One other entry that differs in one place: nearer where a guess has it there."""
    item = Lookup(np.array([0]), (0,), (1,), ("a", "b"), ("77", "78"), ((0, 0),) * 2, (0,))
    found = nearer_by_chance([item] * 400)
    assert found == pytest.approx(0.1, abs=0.012)


def test_what_cannot_be_is_refused(config):
    with pytest.raises(InputError, match="task 'lookup': length = 150 must be at least 158"):
        _run(PhonebookTask(lengths=(150,)), Reader(), config)
    with pytest.raises(ValueError, match=r"lengths = \[200, 200\]: every value may stand there"):
        PhonebookTask(lengths=(200, 200))
    small = config.model_copy(update={"spec": config.spec.model_copy(update={"vocab_size": 258})})
    with pytest.raises(InputError, match="'bytes' has 259 tokens: the model's vocab_size = 258"):
        _run(SMALL, Reader(), small)


def test_an_example_is_drawn(config):
    drawn = describe(PhonebookTask(lengths=(200,)), config)
    head, _, text = drawn.partition("\n")
    assert head.startswith("standard order, ")
    name, _, number = text.split("\n")[-1].partition(": -> ")
    assert f"{name}: {number}\n" in text

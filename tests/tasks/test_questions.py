"""Questions in text, asked of models that know the answers, and of a real one."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from braidlm.arch import Recipe
from braidlm.errors import InputError
from braidlm.generate.mode import inference
from braidlm.model import HybridLM
from braidlm.tasks import greedy, scoring
from braidlm.tasks.ask import ask, in_order, smaller
from braidlm.tasks.partial import Partial
from braidlm.tasks.questions import Answering, Question, QuestionWork, continuation
from tests.tasks.models import BYTES, Speaker, recipe

FACTS = {"Ann": "red", "Tom": "blue", "Eva": "green", "Leo": "grey"}
ANSWERING = Answering(8, ("\n",), ("contains", "exact"))


class Reader(Speaker):
    """Repeats what followed the last line's words earlier in the text."""

    def say(self, text: str) -> str:
        head, _, last = text.rpartition("\n")
        name, _, said = last.partition(" likes")
        at = head.find(f"{name} likes") if name in FACTS else -1
        if at < 0:
            return ""
        return head[at:].partition(" likes")[2].partition(".")[0][len(said) :] + "\n"


def question(name: str, length: int, cluster: str = "") -> Question:
    facts = " ".join(f"{n} likes {c}." for n, c in FACTS.items())
    prompt = f"{'word ' * length}{facts}\n{name} likes"
    return Question(
        name, prompt, (FACTS[name],), cluster or name, {"length": length}, f"{name} likes"
    )


QUESTIONS = [question(name, length) for length in (3, 9) for name in FACTS]


@pytest.fixture
def config(tmp_path) -> Recipe:
    return recipe(tmp_path)


def _work(config: Recipe, questions=QUESTIONS, answering=ANSWERING) -> QuestionWork:
    return QuestionWork("facts", questions, answering, BYTES, config)


def _rows(work: QuestionWork, model: torch.nn.Module, batch_size: int | None = None) -> list[dict]:
    batches = smaller(work.batches, batch_size)
    scored = ask(work, batches, lambda: model, Partial(None, {}), "fp32", None)
    return in_order(batches, scored)


def test_a_reader_knows_with_the_context_and_not_without(config):
    work = _work(config)
    found = work.summary(_rows(work, Reader()))
    assert (found["metric"], found["value"], found["n"], found["n_items"]) == ("contains", 1, 4, 8)
    metrics = {name: entry["value"] for name, entry in found["metrics"].items()}
    assert (metrics["exact"], metrics["without_context"]) == (1, 0)
    assert metrics["answer_nll"] < metrics["without_context_nll"]
    rows = found["tables"]["by_length"]
    assert [(r["length"], r["contains"], r["n"], r["n_items"]) for r in rows] == [
        (3, 1, 4, 4),
        (9, 1, 4, 4),
    ]
    assert rows[1]["tokens"] == rows[0]["tokens"] + 6 * len("word ")
    longest = max(len(q.prompt) for q in QUESTIONS) + 1 + 8
    assert (found["seq_len"], found["is_extrapolated"]) == (longest, True)


def test_rows_say_what_was_said_up_to_the_stop(config):
    rows = _rows(_work(config), Reader())
    assert [row["id"] for row in rows[:2]] == ["3/Ann", "3/Tom"]
    first = rows[0]
    assert (first["answer"], first["answer_without_context"]) == (" red", "")
    assert (first["group"], first["length"], first["cluster"]) == ("3", 3, "Ann")


class Endless(Speaker):
    def say(self, text: str) -> str:
        return "x"


def test_what_never_stops_is_cut_and_a_stop_needs_no_line_end(config):
    [row, *_] = _rows(_work(config), Endless())
    assert row["answer"] == "x" * 8
    answering = Answering(8, ("\n", " likes"), ("exact",))
    asked = [Question("one", "Ann likes red.\nAnn", ("likes",), "one")]

    class Likes(Speaker):
        def say(self, text: str) -> str:
            return " likes red"[len(text.rpartition("Ann")[2]) :]

    [row] = _rows(_work(config, asked, answering), Likes())
    assert row["answer"] == ""
    assert row["id"] == "one"
    assert set(row) == {"id", "cluster", "exact", "answer_nll", "answer", "tokens"}


def test_decoding_ends_when_every_row_has_ended(config):
    class Counting(Reader):
        calls = 0

        def forward(self, *given):
            self.calls += 1
            return super().forward(*given)

    model = Counting()
    work = _work(config, answering=Answering(100))
    assert len(work.batches) == 1
    _rows(work, model)
    # Prompt, forced answer, " green\n" one by one but its first; then a line end alone.
    assert model.calls == 2 + 6 + 2


def test_losses_and_answers_are_those_of_each_question_alone(config):
    torch.manual_seed(2)
    model = HybridLM(config.spec)
    work = _work(config)
    rows = _rows(work, model)
    singly = _rows(work, model, batch_size=1)
    for row, alone, asked in zip(rows, singly, QUESTIONS, strict=True):
        assert (row["id"], row["answer"]) == (alone["id"], alone["answer"])
        assert row["answer_nll"] == pytest.approx(alone["answer_nll"], abs=1e-4)
        ids = [BYTES.bos_id, *f"{asked.prompt} {asked.answers[0]}".encode()]
        n = len(asked.answers[0]) + 1
        with inference(model):
            logits = model.head(model(torch.tensor([ids])).hidden)[0, -n - 1 : -1]
        wanted = torch.tensor(ids[-n:])
        nll = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")
        assert row["answer_nll"] == pytest.approx(float(nll), abs=1e-4)


def test_longest_prompts_come_together(config, monkeypatch):
    monkeypatch.setattr(scoring, "TOKENS_AT_ONCE", 3 * (len(QUESTIONS[4].prompt) + 9))
    work = _work(config)
    assert [sorted(b) for b in work.batches] == [[4, 5, 6], [0, 1, 7], [2, 3]]
    assert {len(b) for b in smaller(work.batches, 2)} == {1, 2}
    assert [row["id"] for row in _rows(work, Reader())] == [
        row["id"] for row in _rows(_work(config), Reader())
    ]


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_long_answers_do_not_make_batches_small(config, monkeypatch, columns):
    """Their logits are held a few columns at a time, and the losses stay."""
    torch.manual_seed(2)
    model = HybridLM(config.spec)
    whole = [row["answer_nll"] for row in _rows(_work(config), model)]
    monkeypatch.setattr(scoring, "LOGITS_AT_ONCE", 5 * config.spec.vocab_size)
    monkeypatch.setattr(greedy, "LOGITS_AT_ONCE", columns * 5 * config.spec.vocab_size + 1)
    most = []
    monkeypatch.setattr(greedy, "precise_logits", _watched(greedy.precise_logits, most))
    work = _work(config)
    assert [len(batch) for batch in work.batches] == [5, 3]
    assert [row["answer_nll"] for row in _rows(work, model)] == pytest.approx(whole, abs=1e-4)
    assert max(most) <= columns * 5


def _watched(logits: Any, most: list[int]) -> Any:
    """Note of how many tokens logits are asked for at a time."""

    def watching(model: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        most.append(hidden.shape[:-1].numel())
        return logits(model, hidden)

    return watching


def test_the_digest_is_of_what_is_asked(config):
    changed = [q._replace(answers=("mauve",)) if q.id == "Eva" else q for q in QUESTIONS]
    bare = [q._replace(without_context=None) for q in QUESTIONS]
    other = [q._replace(without_context="?") for q in QUESTIONS]
    found = [_work(config, qs).digest for qs in (QUESTIONS, changed, bare, other)]
    assert len(set(found)) == 4
    assert _work(config).digest == found[0]


class HalfKnown(Reader):
    """Knows what Ann and Tom like."""

    def say(self, text: str) -> str:
        return super().say(text) if text.rpartition("\n")[2][:3] in ("Ann", "Tom") else ""


def test_errors_are_over_clusters_that_reach_over_lengths(config):
    """Two of four names are known at both lengths: eight items, but four independent draws."""
    work = _work(config)
    found = work.summary(_rows(work, HalfKnown()))["metrics"]["exact"]
    assert (found["value"], found["n"]) == (0.5, 4)
    assert found["stderr"] == pytest.approx(np.std([1, 1, 0, 0], ddof=1) / 2)


def test_several_keys_have_a_table_each(config):
    asked = [
        q._replace(group={"length": length, "depth": depth}, id=f"{q.id}{depth}")
        for length in (3, 9)
        for depth in (0.0, 0.5)
        for q in (question("Ann", length), question("Eva", length))
    ]
    work = _work(config, asked)
    rows = _rows(work, HalfKnown())
    tables = work.summary(rows)["tables"]
    assert rows[0]["group"] == "3/0.0"
    assert [row["exact"] for row in tables["by_length"]] == [0.5, 0.5]
    assert [row["depth"] for row in tables["by_depth"]] == [0.0, 0.5]
    assert [(r["length"], r["depth"], r["n"]) for r in tables["by_group"]] == [
        (3, 0.0, 2), (3, 0.5, 2), (9, 0.0, 2), (9, 0.5, 2)
    ]  # fmt: skip


def test_answers_follow_after_a_space():
    asked = QUESTIONS[0]
    assert continuation(asked) == " red"
    assert continuation(asked._replace(prompt="x\n")) == "red"
    assert continuation(asked._replace(answers=("\tred",))) == "\tred"


def test_what_cannot_be_asked_is_refused(config):
    with pytest.raises(InputError, match="task 'facts': there is no question to ask"):
        _work(config, [])
    wide: Any = SimpleNamespace(name="wide", vocab_size=301)
    with pytest.raises(InputError, match=r"tokenizer 'wide' has 301 tokens: .* vocab_size = 300"):
        QuestionWork("facts", QUESTIONS, ANSWERING, wide, config)
    with pytest.raises(InputError, match="batch_size = 0: must be at least 1 item"):
        smaller([[1]], 0)


def test_the_example_names_prompt_and_answer(config):
    drawn = _work(config, [QUESTIONS[0]._replace(answers=("red", "crimson"))]).example()
    assert drawn.endswith("Ann likes -> red (or crimson)")
    long = QUESTIONS[0]._replace(prompt="a" * 900)
    assert f"{'a' * 400} [...] {'a' * 400} -> red" in _work(config, [long]).example()
    assert json.dumps(_work(config).identity)

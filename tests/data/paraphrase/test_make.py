"""Every passage once: with threads, failures, stops, kills, and inputs that change."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from braidlm.data.paraphrase.folder import JOURNAL, PAIRS, read_manifest, read_rejected
from braidlm.data.paraphrase.gate import GateConfig
from braidlm.data.paraphrase.method import Draft, Passage, PassageError, StoppedError
from braidlm.errors import InputError

from .making import OPEN, Echo, accepted, made, reasons, slowly

TEXTS = [f"text number {i}" for i in range(20)]
EXPECTED = [(f"t{i}#0", f"text number {i} again") for i in range(20)]


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 1), (4, 1), (3, 4), (1, 50)])
def test_each_passage_is_asked_once_and_stands_in_the_order_of_the_input(
    tmp_path, workers, batch_size
):
    method = Echo(TEXTS, slowly, workers, batch_size)
    found = made(method, tmp_path / "out")
    assert set(method.asked.values()) == {1}
    assert accepted(tmp_path / "out") == EXPECTED
    assert found.counts == {"read": 20, "texts": 20, "accepted": 20, "rejected": {}}
    assert not found.stopped
    assert read_manifest(tmp_path / "out")["is_complete"]


def test_what_is_done_is_not_asked_again(tmp_path):
    made(Echo(TEXTS), tmp_path)
    before = (tmp_path / PAIRS).read_bytes()
    method = Echo(TEXTS)
    made(method, tmp_path)
    assert not method.asked
    assert (tmp_path / PAIRS).read_bytes() == before


def test_empty_texts_and_duplicates_are_not_asked_and_say_why(tmp_path):
    method = Echo(["one", " \n", "two", "one ", "one"])
    found = made(method, tmp_path)
    assert sorted(method.asked) == ["t0", "t2"]
    assert reasons(tmp_path) == {
        "t1#0": "empty",
        "t3#0": "duplicate: of t0",
        "t4#0": "duplicate: of t0",
    }
    assert found.counts["rejected"] == {"duplicate": 2, "empty": 1}


def test_a_passage_that_fails_is_kept_with_its_reason_and_the_others_go_on(tmp_path):
    def act(passage: Passage) -> None:
        if passage.id == "t7":
            raise PassageError("the answer was no JSON")

    made(Echo(TEXTS, act, workers=3), tmp_path)
    assert accepted(tmp_path) == [e for e in EXPECTED if e[0] != "t7#0"]
    assert reasons(tmp_path) == {"t7#0": "failed: the answer was no JSON"}


def test_a_batch_that_fails_fails_for_each_of_its_passages(tmp_path):
    class Batch(Echo):
        def paraphrase(self, batch):
            if batch[0].id == "t4":
                raise PassageError("too long")
            return super().paraphrase(batch)

    made(Batch(TEXTS, batch_size=4), tmp_path)
    assert list(reasons(tmp_path)) == ["t4#0", "t5#0", "t6#0", "t7#0"]
    assert len(accepted(tmp_path)) == 16


def test_no_draft_and_the_same_draft_twice_have_their_reasons(tmp_path):
    class Odd(Echo):
        def paraphrase(self, batch):
            return [[Draft("a"), Draft("b"), Draft("a")] if p.id == "t0" else [] for p in batch]

    made(Odd(["x", "y"]), tmp_path)
    assert accepted(tmp_path) == [("t0#0", "a"), ("t0#1", "b")]
    assert reasons(tmp_path) == {"t0#2": "repeated", "t1#0": "no paraphrase"}


def test_what_a_method_itself_rejects_passes_by_the_gate_and_keeps_its_text(tmp_path):
    class Cut(Echo):
        def paraphrase(self, batch):
            cut = Draft("x and", {"words": 2.0}, reason="truncated: at 2 tokens")
            return [[cut, Draft("x and y"), cut, Draft("")] for _ in batch]

    strict = GateConfig(min_length=0.5, min_distance=0, max_distance=1)
    made(Cut(["x or y"]), tmp_path, strict)
    assert accepted(tmp_path) == [("t0#1", "x and y")]
    assert [(p.id, p.paraphrase, p.scores, why) for p, why in read_rejected(tmp_path)] == [
        ("t0#0", "x and", {"words": 2.0}, "truncated: at 2 tokens"),
        ("t0#2", "x and", {"words": 2.0}, "truncated: at 2 tokens"),
        ("t0#3", "", {}, "empty paraphrase"),
    ]


@pytest.mark.parametrize("workers", [1, 4])
def test_a_stop_keeps_what_is_done_and_the_next_run_does_the_rest(tmp_path, workers):
    def act(passage: Passage) -> None:
        slowly(passage)
        if int(passage.id[1:]) >= 9:
            raise StoppedError("the budget is spent")

    first = Echo(TEXTS, act, workers)
    found = made(first, tmp_path)
    assert found.stopped == "the budget is spent"
    assert accepted(tmp_path) == EXPECTED[:9]
    assert not read_manifest(tmp_path)["is_complete"]
    second = Echo(TEXTS, workers=workers)
    made(second, tmp_path)
    assert sorted(second.asked) == sorted(f"t{i}" for i in range(9, 20))
    assert accepted(tmp_path) == EXPECTED


@pytest.mark.parametrize("error", [InputError("bad key"), KeyboardInterrupt(), ZeroDivisionError()])
def test_an_error_leaves_a_folder_that_goes_on(tmp_path, error):
    def act(passage: Passage) -> None:
        slowly(passage)
        if passage.id == "t6":
            raise error

    first = Echo(TEXTS, act, workers=3)
    with pytest.raises(type(error)):
        made(first, tmp_path)
    kept = accepted(tmp_path)
    assert {f"t{i}#0" for i in range(5)} <= {name for name, _ in kept}
    second = Echo(TEXTS)
    made(second, tmp_path)
    assert {f"{name}#0" for name in second.asked} == {n for n, _ in EXPECTED} - {n for n, _ in kept}
    assert accepted(tmp_path) == EXPECTED


def failing(*names: str):
    def act(passage: Passage) -> None:
        if passage.id in names:
            raise PassageError("no answer")

    return act


def test_what_failed_is_asked_again_when_that_is_wanted_and_nothing_else(tmp_path):
    texts = [*TEXTS[:6], " ", TEXTS[0]]  # the last two can never have a paraphrase
    made(Echo(texts, failing("t1", "t4")), tmp_path)
    second = Echo(texts)
    made(second, tmp_path)
    assert second.asked.total() == 0
    third = Echo(texts, failing("t4"), workers=3)
    found = made(third, tmp_path, retry_failed=True)
    assert third.asked == {"t1": 1, "t4": 1}
    assert accepted(tmp_path) == [row for row in EXPECTED[:6] if row[0] != "t4#0"]
    assert found.counts["rejected"] == {"duplicate": 1, "empty": 1, "failed": 1}
    made(Echo(texts), tmp_path, retry_failed=True)
    assert accepted(tmp_path) == EXPECTED[:6]
    whole = Echo(texts)
    made(whole, tmp_path, retry_failed=True)
    assert whole.asked.total() == 0
    made(Echo(texts), tmp_path / "at once")
    for name in (PAIRS, "rejected.jsonl"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "at once" / name).read_bytes()


@pytest.mark.parametrize("left", [1, 40])
def test_a_torn_second_try_leaves_what_stood_there(tmp_path, left):
    made(Echo(TEXTS, failing("t3")), tmp_path)
    before = (tmp_path / "rejected.jsonl").read_bytes()
    made(Echo(TEXTS), tmp_path, retry_failed=True)
    journal = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(journal[:-left])
    plain = Echo(TEXTS)
    made(plain, tmp_path)
    assert plain.asked.total() == 0
    assert (tmp_path / "rejected.jsonl").read_bytes() == before
    again = Echo(TEXTS)
    made(again, tmp_path, retry_failed=True)
    assert again.asked == {"t3": 1}
    assert accepted(tmp_path) == EXPECTED


def test_a_second_try_that_is_stopped_loses_nothing(tmp_path):
    made(Echo(TEXTS, failing("t3", "t9", "t15")), tmp_path)

    def act(passage: Passage) -> None:
        if passage.id == "t9":
            raise StoppedError("the budget is spent")

    assert made(Echo(TEXTS, act), tmp_path, retry_failed=True).stopped
    left = {n.removesuffix("#0") for n, _ in EXPECTED if n not in dict(accepted(tmp_path))}
    assert {"t9"} <= left <= {"t9", "t15"}  # the last may have begun already
    made(Echo(TEXTS), tmp_path)
    assert read_manifest(tmp_path)["is_complete"]
    last = Echo(TEXTS)
    made(last, tmp_path, retry_failed=True)
    assert last.asked == dict.fromkeys(left, 1)
    assert accepted(tmp_path) == EXPECTED


KILLED = """
import sys, os
from pathlib import Path
from tests.data.paraphrase.making import Echo, made
def act(passage):
    if passage.id == "t11":
        os.kill(os.getpid(), 9)
made(Echo([f"text number {i}" for i in range(20)], act), Path(sys.argv[1]))
"""


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    root = Path(__file__).parents[3]
    run = [sys.executable, "-c", KILLED, str(tmp_path / "out")]
    done = subprocess.run(run, cwd=root, timeout=60, env={**os.environ, "PYTHONPATH": str(root)})
    assert done.returncode == -9
    method = Echo(TEXTS)
    made(method, tmp_path / "out")
    # What was written at that moment is done again, and nothing that is in the folder.
    rest = {f"t{i}" for i in range(11, 20)}
    assert rest <= set(method.asked) <= {*rest, "t10", "t9"}
    assert accepted(tmp_path / "out") == EXPECTED


@pytest.mark.parametrize("left", [1, 40])
def test_a_torn_line_is_done_again(tmp_path, left):
    made(Echo(TEXTS), tmp_path)
    lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    (tmp_path / JOURNAL).write_bytes(b"".join(lines[:-1]) + lines[-1][:-left])
    method = Echo(TEXTS)
    made(method, tmp_path)
    assert list(method.asked) == ["t19"]
    assert accepted(tmp_path) == EXPECTED


def test_a_damaged_line_is_refused(tmp_path):
    made(Echo(TEXTS), tmp_path)
    lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    lines[4] = b"\0" * (len(lines[4]) - 1) + b"\n"
    (tmp_path / JOURNAL).write_bytes(b"".join(lines))
    with pytest.raises(InputError, match="is damaged"):
        made(Echo(TEXTS), tmp_path)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"method": "other"}, "was begun with method = 'echo', not 'other'"),
        ({"settings": {"temperature": 1.0}}, "settings.temperature = None, not 1.0"),
        ({"seed": 3}, "seed = 0, not 3"),
        ({"source": {"path": "b"}}, "source = None, not {'path': 'b'}"),
        ({"gate": {**OPEN.model_dump(), "min_length": 0.7}}, "gate.min_length = 0.0, not 0.7"),
    ],
)
def test_other_settings_are_refused_by_name_and_nothing_changes(tmp_path, header, says):
    made(Echo(TEXTS), tmp_path)
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    with pytest.raises(InputError, match=re.escape(says)):
        made(Echo(TEXTS), tmp_path, **header)
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["text number 0", "changed"], "passage 't1' is not the text"),
        (TEXTS[:3], "holds 20 passages and the input has only 3"),
    ],
)
def test_another_input_under_the_same_name_is_refused_and_nothing_is_lost(tmp_path, texts, says):
    made(Echo(TEXTS), tmp_path)
    with pytest.raises(InputError, match=says):
        made(Echo(texts), tmp_path)
    assert accepted(tmp_path) == EXPECTED


def test_a_folder_where_nothing_was_done_takes_other_settings(tmp_path):
    class Wrong(Echo):
        def passages(self):
            raise InputError("no such file")
            yield

    with pytest.raises(InputError, match="no such file"):
        made(Wrong([]), tmp_path, source={"path": "typo"})
    made(Echo(TEXTS), tmp_path, source={"path": "right"})
    assert accepted(tmp_path) == EXPECTED
    assert read_manifest(tmp_path)["source"] == {"path": "right"}


def test_two_passages_of_one_name_are_refused(tmp_path):
    class Twice(Echo):
        def passages(self):
            yield Passage("same", "a")
            yield Passage("same", "b")

    with pytest.raises(InputError, match="two passages of the input have this id"):
        made(Twice([]), tmp_path)


def test_a_folder_of_other_files_and_a_file_are_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match=r"holds other files and no manifest\.json"):
        made(Echo(TEXTS), tmp_path)
    with pytest.raises(InputError, match="is a file"):
        made(Echo(TEXTS), tmp_path / "mine.txt")


def test_a_folder_in_use_is_refused(tmp_path):
    def act(passage: Passage) -> None:
        with pytest.raises(InputError, match="another process is making it"):
            made(Echo(TEXTS), tmp_path)

    made(Echo(TEXTS[:1], act), tmp_path)
    assert len(accepted(tmp_path)) == 1


def test_memory_holds_few_batches_at_once(tmp_path):
    """Passages are taken from the input as they are worked on, not all at first."""
    ahead = []

    class Counting(Echo):
        n_read = 0

        def passages(self):
            for passage in super().passages():
                self.n_read += 1
                yield passage

        def paraphrase(self, batch):
            time.sleep(0.001)
            ahead.append(self.n_read - self.asked.total())
            return super().paraphrase(batch)

    made(Counting(TEXTS * 1, workers=2), tmp_path)
    assert max(ahead) <= 2 * 2 + 2


def test_a_broken_character_survives(tmp_path):
    made(Echo(["half \ud83d of one"]), tmp_path)
    assert accepted(tmp_path) == [("t0#0", "half \ud83d of one again")]
    assert json.loads((tmp_path / PAIRS).read_text())["text"] == "half \ud83d of one"

"""Loss by position in long documents against sums done by hand and against the whole at once."""

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from braidlm import report
from braidlm.arch import Recipe, Spec
from braidlm.arch.tasks import LongTextTask
from braidlm.cli.main import main
from braidlm.errors import InputError
from braidlm.generate.mode import inference
from braidlm.model import HybridLM
from braidlm.tasks import describe, run_task
from braidlm.tasks.carried import losses_in_pieces
from braidlm.tasks.longtext import LongTextWork, bytes_by_bin, edges_of, summary
from braidlm.tasks.stats import ratio
from tests.tasks.models import BYTES, VOCAB, Known, Uniform, Unigram, recipe, saved_run


def books(folder, *texts: str) -> str:
    path = folder / "books.jsonl"
    path.write_text("".join(json.dumps({"title": "x", "text": text}) + "\n" for text in texts))
    return str(path)


class Until(Known):
    """Knows every byte "a" until `reach` tokens of context, and nothing beyond."""

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.reach = reach

    def logits(self, tokens, segments):
        out = torch.zeros(*tokens.shape, VOCAB)
        out[:, : self.reach, ord("a")] = 40.0
        return out


class Counting(HybridLM):
    """Remembers how many tokens it was given at a time."""

    def forward(self, tokens: Tensor, *args, **kwargs):
        self.sizes = [*getattr(self, "sizes", []), tokens.numel()]
        return super().forward(tokens, *args, **kwargs)


@pytest.mark.parametrize("n_at_once", [1, 2, 7, 24, 66, 1000])
def test_pieces_equal_the_whole(n_at_once):
    mixers = {"W": {"window": 5}, "M": {"chunk_size": 8}, "G": {"chunk_size": 8}}
    spec = Spec.of({"pattern": "M-*S-WG+", "d_model": 16, "vocab_size": 50, "mixers": mixers})
    torch.manual_seed(0)
    model = Counting(spec)
    tokens = np.random.default_rng(0).integers(50, size=(2, 34))
    with inference(model):
        x, y = (torch.from_numpy(tokens[:, part]) for part in (slice(-1), slice(1, None)))
        whole = model.loss(x, y, reduction="none").numpy()
        model.sizes = []
        found = losses_in_pieces(model, tokens, n_at_once, 50)
    np.testing.assert_allclose(found, whole, atol=2e-5)
    assert max(model.sizes) <= max(n_at_once, 2)
    assert sum(model.sizes) == 66


def test_few_logits_at_a_time_change_nothing(monkeypatch):
    tokens, model = np.tile([256, 97, 98, 97, 99], (2, 1)), Unigram(a=0.5, b=0.25)
    with inference(model):
        whole = losses_in_pieces(model, tokens, 100, VOCAB)
        monkeypatch.setattr("braidlm.tasks.carried.LOGITS_AT_ONCE", 2 * VOCAB)
        np.testing.assert_array_equal(losses_in_pieces(model, tokens, 100, VOCAB), whole)
    assert whole[0, :3] == pytest.approx([math.log(2), math.log(4), math.log(2)], rel=1e-6)


def test_figures_by_hand(tmp_path):
    """a costs 1 bit, b 2 bits; the first book is too short, the last letters fill no window."""
    path = books(tmp_path, "aaa", "aaaa" + "bbbb" + "zz", "bbbbbbbb")
    task = LongTextTask(path=path, lengths=(8, 4), bins="equal", bin_width=4)
    found = run_task(task, Unigram(a=0.5, b=0.25), BYTES, recipe(tmp_path))
    assert (found["metric"], found["n"], found["n_windows"]) == ("bits_per_byte", 2, 2)
    assert found["value"] == pytest.approx((4 + 8 + 16) / 16, rel=1e-6)
    assert found["metrics"]["nll_per_token"]["value"] == pytest.approx(1.75 * math.log(2))
    assert found["data"] == {"path": path, "n_too_short": 1}
    rows = found["tables"]["by_position"]
    assert [(r["start"], r["end"], r["n"], r["n_documents"]) for r in rows] == [
        (0, 4, 8, 2),
        (4, 8, 8, 2),
    ]
    assert [r["nll"] for r in rows] == pytest.approx([1.5 * math.log(2), 2 * math.log(2)])
    assert [r["bits_per_byte"] for r in rows] == pytest.approx([1.5, 2.0])
    lengths = found["tables"]["by_length"]
    assert [(r["length"], r["n"]) for r in lengths] == [(8, 2), (4, 2)]
    assert [r["bits_per_byte"] for r in lengths] == pytest.approx([1.75, 1.5])
    # The second bins cost the same in both books, whichever are drawn.
    assert rows[1]["stderr"] == pytest.approx(0.0, abs=1e-9)
    assert rows[0]["stderr"] == pytest.approx(math.log(2) / 2 / math.sqrt(2), rel=0.1)
    assert not found["is_extrapolated"]
    assert "beyond" not in found["metrics"]


def test_loss_beyond_the_trained_length(tmp_path):
    """Trained to 32 tokens: half and whole of it are edges, and what lies beyond is compared."""
    path = books(tmp_path, "a" * 96, "a" * 200)
    task = LongTextTask(path=path, lengths=(96,))
    found = run_task(task, Until(32), BYTES, recipe(tmp_path))
    rows = {(r["start"], r["end"]): r["nll"] for r in found["tables"]["by_position"]}
    assert list(rows) == [(0, 16), (16, 32), (32, 64), (64, 96)]
    assert list(rows.values()) == pytest.approx([0, 0, math.log(VOCAB), math.log(VOCAB)], abs=1e-6)
    assert found["is_extrapolated"]
    beyond = found["metrics"]["beyond"]
    assert (beyond["value"], beyond["stderr"]) == pytest.approx((math.log(VOCAB), 0), abs=1e-6)
    even = run_task(task, Uniform(), BYTES, recipe(tmp_path))
    assert even["metrics"]["beyond"]["value"] == pytest.approx(0, abs=1e-6)


def test_windows_of_a_book_are_one_draw(tmp_path):
    path = books(tmp_path, "a" * 8 + "b" * 8 + "aab", "a" * 15, "b" * 24)
    task = LongTextTask(path=path, lengths=(8,), windows=2, tokens_at_once=16)
    work = LongTextWork(task, BYTES, recipe(tmp_path))
    assert [(w.document, w.number) for w in work.windows] == [
        ("books.jsonl:1", 0),
        ("books.jsonl:1", 1),
        ("books.jsonl:2", 0),
        ("books.jsonl:3", 0),
        ("books.jsonl:3", 1),
    ]
    assert all(w.tokens[0] == BYTES.bos_id for w in work.windows)
    assert [list(batch) for batch in work.batches] == [[0, 1], [2, 3], [4]]
    found = run_task(task, Unigram(a=0.5, b=0.25), BYTES, recipe(tmp_path))
    assert (found["n"], found["n_windows"]) == (3, 5)
    assert found["value"] == pytest.approx((24 + 8 + 32) / 40)


def test_the_bootstrap_is_over_books():
    """As the delta method says, of books that differ in length and in loss."""
    rng = np.random.default_rng(0)
    edges, rows = np.array([0, 4, 8]), []
    for book in range(60):
        level = rng.normal(2, 1)
        for _ in range(rng.integers(1, 4)):
            nll, n_bytes = 4 * (level + rng.normal(0, 0.1, 2)), rng.integers(4, 20, 2)
            rows.append({"cluster": book, "nll_by_bin": nll, "bytes_by_bin": n_bytes})
    found = summary(rows, edges, (8,), trained=8)
    nll, n_bytes, n = np.zeros(60), np.zeros(60), np.zeros(60)
    for row in rows:
        nll[row["cluster"]] += row["nll_by_bin"].sum() / math.log(2)
        n_bytes[row["cluster"]] += row["bytes_by_bin"].sum()
        n[row["cluster"]] += 8
    assert found["value"] == pytest.approx(ratio(nll, n_bytes).value)
    assert found["stderr"] == pytest.approx(ratio(nll, n_bytes).stderr, rel=0.15)
    loss = found["metrics"]["nll_per_token"]
    assert loss["stderr"] == pytest.approx(ratio(nll * math.log(2), n).stderr, rel=0.15)
    assert summary(rows[:1], edges, (8,), 8)["stderr"] is None


def test_bytes_count_where_a_character_ends():
    tokens = BYTES.encode("a€b\ufffd")
    assert bytes_by_bin(tokens, np.array([0, 1, 2, 4, 5, 8]), BYTES).tolist() == [1, 0, 3, 1, 0]
    assert bytes_by_bin(BYTES.encode("a€b"), np.array([0, 2, 5]), BYTES).tolist() == [1, 4]


def test_edges_double_or_are_equally_wide():
    task = LongTextTask(lengths=(1000, 300))
    assert edges_of(task, 4096).tolist() == [0, 64, 128, 256, 300, 512, 1000]
    assert edges_of(task, 400).tolist() == [0, 64, 128, 200, 256, 300, 400, 512, 1000]
    equal = LongTextTask(lengths=(3000,), bins="equal")
    assert edges_of(equal, 3000).tolist() == [0, 1024, 2048, 3000]


def test_held_out_documents_are_the_default(tmp_path):
    config = recipe(tmp_path)
    task = LongTextTask(lengths=(16,), n_documents=3)
    found = run_task(task, Uniform(), BYTES, config)
    assert (found["n"], found["data"]["path"]) == (3, "held out")
    assert describe(task, config).startswith("document ")
    text = config.to_dict()
    text["data"]["sources"] = text["data"]["sources"][1:]
    text["tasks"] = []
    with pytest.raises(InputError, match="task 'longtext': path = '': the recipe has no text"):
        run_task(task, Uniform(), BYTES, Recipe.from_dict(text))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lengths": []}, "lengths"),
        ({"lengths": [1]}, "lengths: 1 must be at least 2 tokens"),
        ({"lengths": [8, 8]}, "every value may stand there once"),
        ({"files": ["*.txt"]}, "path = '': files and config need a path"),
        ({"path": "a.txt", "config": "x"}, "config = 'x': only for a path that begins with 'hf:'"),
        ({"tokens_at_once": 0}, "tokens_at_once"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LongTextTask(**fields)


def test_documents_that_cannot_be_read_are_refused(tmp_path):
    task = LongTextTask(path=books(tmp_path, "abc", "abcdef"), lengths=(8,))
    with pytest.raises(
        InputError, match="none of 2 documents has so many tokens; the longest has 6"
    ):
        run_task(task, Uniform(), BYTES, recipe(tmp_path))
    task = LongTextTask(path=str(tmp_path / "none.jsonl"))
    with pytest.raises(InputError, match=r"task 'longtext': corpus .*none.jsonl does not exist"):
        run_task(task, Uniform(), BYTES, recipe(tmp_path))


def test_the_command_and_the_report(tmp_path, capsys):
    run = saved_run(tmp_path)
    path = books(tmp_path, *("word " * 40 + str(i) for i in range(4)))
    words = ["eval", str(run.path), "--tasks", "longtext", "--set", f"tasks.longtext.path={path}"]
    assert main([*words, "--lengths", "32,128"]) == 0
    assert "longtext" in capsys.readouterr().out
    result = json.loads((run.results_dir / "longtext-longtext.json").read_text())
    assert [row["length"] for row in result["tables"]["by_length"]] == [32, 128]
    # Pieces of another size are the same measurement.
    assert main([*words, "--lengths", "32,128", "--set", "tasks.longtext.tokens_at_once=16"]) == 0
    assert "longtext-longtext" in capsys.readouterr().err
    again = json.loads((run.results_dir / "longtext-longtext.json").read_text())
    assert again == result
    assert main([*words, "--lengths", "999"]) == 2
    assert "the longest has 201" in capsys.readouterr().err
    page = report.build([run.path], tmp_path / "page.html").read_text()
    assert "trained to 32" in page
    assert "(tokens)" in page
    assert "Bits per byte" in page
    data = report.tables([run.path])
    assert data["trained_lengths"] == {"longtext-longtext": [32.0]}
    (rows,) = data["by_position"]["longtext-longtext"].values()
    assert rows[-1]["end"] == 128
    assert rows[-1]["bits_per_byte"]["item_stderr"] is not None

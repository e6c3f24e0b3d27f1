"""Replay: the rows that the init has read come again, at an exact share, and are told apart."""

import shutil
import signal
from collections import Counter

import numpy as np
import pytest
import torch

from braidlm import interop
from braidlm.arch import Recipe
from braidlm.data.inspection import inspect
from braidlm.data.mixture import Mixture
from braidlm.data.replay import Record
from braidlm.errors import InputError
from braidlm.runs import Run
from braidlm.train import train
from braidlm.train.loop import build_mixture
from braidlm.train.start import open_start, start_of

from .test_loop import assert_same_run, rows

WORDS = tuple("abcdefghijklmnop")


def text(folder, n=30, seed=0):
    generator = np.random.default_rng(seed)
    path = folder / f"text{seed}.txt"
    documents = [" ".join(generator.choice(WORDS, generator.integers(3, 30))) for _ in range(n)]
    path.write_text("\n".join(documents))
    return path


def recipe(path, seq_len=32, **parts) -> Recipe:
    """Rows of text, and a third of look-ups."""
    return Recipe.from_dict(
        {
            "seed": 3,
            "model": {"pattern": "M-", "d_model": 16, "vocab_size": 300},
            "data": {
                "seq_len": seq_len,
                "cache_dir": str(path.parent / "cache"),
                "sources": [
                    {"kind": "text", "path": str(path), "documents": "line", "weight": 2.0},
                    {"kind": "mqar", "vocab_size": 32, "n_pairs": [2], "length": 16},
                ],
            },
            "train": {
                "steps": 5,
                "batch_size": 4,
                "log_every": 1,
                "device": "cpu",
                "precision": "fp32",
            },
        }
        | parts
    )


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Five updates of four rows; do not write in it."""
    folder = tmp_path_factory.mktemp("pretrained")
    train(recipe(text(folder)), folder / "run")
    return folder / "run"


def replaying(pretrained, tmp_path, fraction=0.25, seq_len=32, name="text1.txt", **replay):
    path = tmp_path / name
    path = path if path.exists() else text(tmp_path, seed=1)
    config = recipe(path, seq_len, seed=8, init=str(pretrained)).to_dict()
    config["data"]["replay"] = {"fraction": fraction, **replay}
    config["data"]["sources"] = config["data"]["sources"][:1]
    return Recipe.from_dict(config)


def both(config, tmp_path) -> Mixture:
    start = start_of(config, tmp_path / "none")
    assert start is not None
    return build_mixture(config, start.record(config))


@pytest.mark.parametrize("fraction", [0.05, 0.25, 0.7])
def test_the_share_is_exact_and_the_rows_are_those_of_both_trainings(
    pretrained, tmp_path, fraction
):
    config = replaying(pretrained, tmp_path, fraction)
    mixed = both(config, tmp_path)
    theirs = build_mixture(recipe(pretrained.parent / "text0.txt"))
    plain = config.model_copy(
        update={"data": config.data.model_copy(update={"replay": None}), "init": None}
    )
    ours = build_mixture(plain)
    n_new = n_again = 0
    for number in range(100):
        found = mixed.rows.row(number)
        is_again = mixed.rows.names[found.source] == "replay"
        wanted = theirs.rows.row(n_again % 20) if is_again else ours.rows.row(n_new)
        for part, other in zip(found.row, wanted.row, strict=True):
            assert np.array_equal(part, other)
        n_again, n_new = n_again + is_again, n_new + (not is_again)
        assert abs(n_again - fraction * (number + 1)) <= 0.5 + 1e-9
    assert mixed.rows.names == ("text", "replay")


def test_the_rows_that_would_come_next_are_those_behind_the_last(pretrained, tmp_path):
    config = replaying(pretrained, tmp_path, 0.5, rows="next")
    mixed = both(config, tmp_path)
    theirs = build_mixture(recipe(pretrained.parent / "text0.txt"))
    again = [r.row for r in map(mixed.rows.row, range(60)) if r.source == 1]
    for number, row in enumerate(again):
        assert np.array_equal(row.tokens, theirs.rows.row(20 + number).row.tokens)


def test_a_longer_row_holds_as_many_whole_rows_as_fit(pretrained, tmp_path):
    mixed = both(replaying(pretrained, tmp_path, 0.5, seq_len=80), tmp_path)
    theirs = build_mixture(recipe(pretrained.parent / "text0.txt"))
    batch = Mixture.batch(mixed, 0)
    again = [r.row for r in map(mixed.rows.row, range(30)) if r.source == 1]
    for number, row in enumerate(again):
        parts = [theirs.rows.row((2 * number + i) % 20).row for i in range(2)]
        assert row.pieces == parts[0].pieces + parts[1].pieces
        real = [sum(p.stop - p.start for p in part.pieces) for part in parts]
        tokens = np.concatenate([part.tokens[:n] for part, n in zip(parts, real, strict=True)])
        targets = np.concatenate([part.targets[:n] for part, n in zip(parts, real, strict=True)])
        assert np.array_equal(row.tokens[: len(tokens)], tokens)
        assert np.array_equal(row.targets[: len(tokens)], targets)
        assert (row.targets[len(tokens) :] == -100).all()
        assert len(row.tokens) == 80
    assert batch.segments.shape == (4, 80)


def told_of(config, tmp_path, n):
    """The rows as a person sees them, and as a training reads them."""
    start = start_of(config, tmp_path / "none")
    assert start is not None
    rows = inspect(config.data, n, seed=config.seed, record=start.record(config))
    return rows, [both(config, tmp_path).rows.row(i).row for i in range(n)]


def test_replayed_rows_are_shown_with_the_rows_that_they_were(pretrained, tmp_path):
    shown, packed = told_of(replaying(pretrained, tmp_path, 0.5, seq_len=80), tmp_path, 30)
    again = [row for row in shown if row["kind"] == "replay"]
    assert len(again) == 15
    theirs = inspect(recipe(pretrained.parent / "text0.txt").data, 20, seed=3)
    for number, row in enumerate(again):
        wanted = [theirs[(2 * number + i) % 20] for i in range(2)]
        pieces = [(w, piece) for w in wanted for piece in w["pieces"]]
        assert row["n_tokens"] == sum(w["n_tokens"] for w in wanted)
        for piece, (origin, before) in zip(row["pieces"], pieces, strict=True):
            assert piece["text"] == before["text"]
            assert piece["replayed"] == {k: origin[k] for k in ("row", "source", "kind")}
    for row, real in zip(shown, packed, strict=True):
        learnt = np.flatnonzero(real.targets != -100).tolist()
        runs = [column for p in row["pieces"] for a, b in p["loss"] for column in range(a, b)]
        assert runs == learnt
        assert [p["stop"] for p in row["pieces"]][-1] == 80 - row["n_padding"]


def test_what_the_init_had_replayed_names_both_trainings(pretrained, tmp_path):
    train(replaying(pretrained, tmp_path, 0.5), tmp_path / "first")
    shown, _ = told_of(replaying(tmp_path / "first", tmp_path, 0.5), tmp_path, 20)
    told = [p["replayed"]["source"] for row in shown for p in row["pieces"] if "replayed" in p]
    assert set(told) == {"text", "replay/text", "replay/mqar"}


def test_the_losses_of_both_are_told_apart_and_make_the_whole(pretrained, tmp_path):
    config = replaying(pretrained, tmp_path, 0.5)
    train(config, tmp_path / "run")
    told = rows(tmp_path / "run")
    model = open_start(str(pretrained)).model()
    batch = both(config, tmp_path).batch(0)
    with torch.no_grad():
        each = model.loss(batch.tokens, batch.targets, batch.segments, reduction="none").sum(1)
    n_targets = (batch.targets != -100).sum(1)
    for name in ("text", "replay"):
        mine = torch.tensor([source == name for source in batch.row_sources])
        wanted = float(each[mine].sum() / n_targets[mine].sum())
        assert told[0]["loss_by_source"][name] == pytest.approx(wanted, rel=1e-5)
    assert told[0]["loss"] == pytest.approx(float(each.sum() / n_targets.sum()), rel=1e-5)
    assert told[-1]["sources"] == {"text": 10, "replay": 10}


def test_rows_between_two_lines_of_metrics_count_too(pretrained, tmp_path):
    config = replaying(pretrained, tmp_path, 0.1)
    rare = config.model_copy(update={"train": config.train.model_copy(update={"log_every": 5})})
    train(rare, tmp_path / "rare")
    assert set(rows(tmp_path / "rare")[-1]["loss_by_source"]) == {"text", "replay"}
    train(config, tmp_path / "often")
    assert Counter(len(r["loss_by_source"]) for r in rows(tmp_path / "often")) == {1: 3, 2: 2}


@pytest.mark.parametrize("micro", [0, 2])
def test_it_resumes_without_its_init_bit_by_bit(pretrained, tmp_path, micro):
    init = shutil.copytree(pretrained, tmp_path / "init")
    config = replaying(init, tmp_path, 0.25)
    fields = {"log_every": 2, "micro_batch_size": micro}
    config = config.model_copy(update={"train": config.train.model_copy(update=fields)})
    train(config, tmp_path / "whole")
    start = start_of(config, tmp_path / "none")
    assert start is not None
    mixture = Halting(config.data, batch_size=4, seed=8, record=start.record(config))
    train(config, tmp_path / "parts", mixture=mixture)
    assert Run.open(tmp_path / "parts").status()["step"] == 3
    shutil.rmtree(init)
    train(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert {"text", "replay"} == set(rows(tmp_path / "whole")[1]["loss_by_source"])


class Halting(Mixture):
    """A signal with the third batch: in the middle of what a row of metrics tells of."""

    def batch(self, step, start=0, stop=None):
        if step == 2:
            signal.raise_signal(signal.SIGINT)
        return super().batch(step, start, stop)


def test_a_second_continuation_replays_the_whole_mixture_of_the_first(pretrained, tmp_path):
    first = replaying(pretrained, tmp_path, 0.5)
    train(first, tmp_path / "first")
    second = replaying(tmp_path / "first", tmp_path, 0.5)
    again = both(second, tmp_path)
    theirs = both(first, tmp_path)
    found = [r.row for r in map(again.rows.row, range(40)) if r.source == 1]
    for number, row in enumerate(found):
        assert np.array_equal(row.tokens, theirs.rows.row(number % 20).row.tokens)
    train(second, tmp_path / "second")
    assert set(again.corpora) == {"text", "replay/text", "replay/replay/text"}
    origin = Run.open(tmp_path / "second").origin["trained_on"]
    assert Record.of(origin).before is not None
    assert Record.of(origin).plain() == origin
    # The weights that it began with were trained on that, not on what it trains on.
    kept = open_start(str(tmp_path / "second" / "init"))
    assert kept.origin["trained_on"] == origin


def test_text_that_has_changed_is_refused(tmp_path):
    path = text(tmp_path)
    train(recipe(path), tmp_path / "old")
    config = replaying(tmp_path / "old", tmp_path)
    path.write_text(path.read_text().replace("c", "x"))
    with pytest.raises(InputError, match=r"data\.replay: the text of source 'text' is not the one"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_replayed_is_refused_by_name(pretrained, tmp_path):
    interop.export_run(pretrained, tmp_path / "hf", format="braid-hf")
    config = replaying(tmp_path / "hf", tmp_path)
    with pytest.raises(InputError, match=r"hf' does not say on which rows it was trained; allowed"):
        train(config, tmp_path / "run")
    with pytest.raises(InputError, match=r"\[data\.replay\]: needs an init"):
        train(config.model_copy(update={"init": None}), tmp_path / "run")
    with pytest.raises(InputError, match=r"data\.seq_len = 24: must be at least 32"):
        train(replaying(pretrained, tmp_path, seq_len=24), tmp_path / "run")
    for fraction, says in ((0.0, "greater than 0"), (1.0, "less than 1")):
        with pytest.raises(InputError, match=rf"data\.replay\.fraction = {fraction}: .*{says}"):
            replaying(pretrained, tmp_path, fraction)
    named = config.to_dict()
    named["data"]["sources"][0]["name"] = "replay"
    with pytest.raises(InputError, match="the name 'replay' is that of"):
        Recipe.from_dict(named)
    assert not (tmp_path / "run").exists()


def test_a_damaged_record_is_one_sentence():
    with pytest.raises(InputError, match="the record of what was trained on is damaged"):
        Record.of({"data": {"sources": []}})

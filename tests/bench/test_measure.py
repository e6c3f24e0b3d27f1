"""Contenders in turn; what fails, does not fit or is interrupted, and what is kept then."""

import dataclasses

import pytest

from braidlm.bench import Plan, as_data, bench
from braidlm.bench import measure as measuring
from braidlm.bench.clock import Rounds
from braidlm.bench.memory import Gauge
from braidlm.errors import InputError
from tests.bench.conftest import PLAN, SMALL, declaration, rows
from tests.bench.fakes import absent, library, too_large

PREFILL = dataclasses.replace(PLAN, modes=("prefill",), with_peers=True)


@pytest.fixture
def model(tmp_path):
    return declaration("*", tmp_path)


def run(model, plan, *libraries, **settings):
    return bench(model, plan, sizes=SMALL, libraries=libraries, **settings)


def test_contenders_take_turns_and_nobody_is_always_first():
    heard = []
    calls = {name: (lambda name=name: heard.append(name)) for name in "abc"}
    Rounds(calls, 3).run()
    assert "".join(heard) == "abcbcacab"


def test_a_peer_runs_as_often_as_ours_and_is_closed(model):
    heard = []
    plan = dataclasses.replace(PREFILL, contexts=(8,))
    outcome = run(model, plan, library("peer", 0.02, heard=heard))
    assert heard == ["peer"] * (plan.warmups + plan.repeats) + ["peer closed"]
    (ours, peer) = outcome.rows
    assert (ours["subject"], peer["subject"]) == ("braid", "peer")
    assert peer["unit_sec"] == pytest.approx(0.02, rel=0.5)
    assert peer["predicted"] == ours["predicted"]
    assert peer["allocated"] == {}


def test_the_ratio_is_taken_inside_a_round():
    samples = {"braid": [1.0, 2.0, 4.0], "peer": [3.0, 4.0, 6.0]}
    found = measuring._against(samples, "peer")
    assert found["ours_over_it"] == 2.0  # of 3, 2 and 1.5; that of the medians is 2 too
    assert (found["ours_over_it_low"], found["ours_over_it_high"]) == (1.5, 3.0)
    assert measuring._against(samples, "braid") == {}


def test_ttft_and_tpot_come_from_one_call(model):
    plan = dataclasses.replace(PREFILL, modes=("decode",), contexts=(8,), new_tokens=5)
    outcome = run(model, plan, library("peer", 0.03))
    (peer,) = rows(outcome, subject="peer")
    assert peer["unit_sec"] == pytest.approx(0.03)
    assert peer["tokens_per_sec"] == pytest.approx(2 / 0.03)
    assert 0.03 <= peer["ttft_sec"] < 0.1


def test_what_does_not_fit_is_one_line_and_the_rest_goes_on(model):
    outcome = run(model, PREFILL, library("peer", spoil=too_large(30)))
    assert [r["why_not"] for r in rows(outcome, subject="braid")] == [None, None]
    short, long = sorted(rows(outcome, subject="peer"), key=lambda row: row["context"])
    assert short["why_not"] is None
    assert long["why_not"] == "does not fit: CUDA out of memory. Tried to allocate 7 GiB"


def test_ours_is_not_tried_where_its_floor_is_above_the_memory(model, monkeypatch):
    monkeypatch.setattr(measuring, "available_bytes", lambda device: 250_000)
    plan = dataclasses.replace(PLAN, modes=("prefill",), contexts=(8, 4096))
    (short, long) = run(model, plan).rows
    assert short["why_not"] is None
    needed = long["why_not"].removeprefix("does not fit: needs at least ").partition(" bytes")[0]
    assert int(needed.replace(",", "")) > 2 * 4096 * 16 * 4  # the caches alone


def test_a_peer_that_fails_is_told_and_ours_runs(model):
    def fail(tokens):
        raise RuntimeError("kernel\nmissing")

    outcome = run(model, PREFILL, library("peer", spoil=fail), absent("no such thing"))
    assert {r["why_not"] for r in rows(outcome, subject="peer")} == {
        "failed: RuntimeError: kernel missing"
    }
    assert all(r["why_not"] is None for r in rows(outcome, subject="braid"))
    about = as_data(outcome)["contenders"]["prefill"]
    assert about["absent"] == {"why_not": "no peer: no such thing"}


def test_an_interruption_keeps_what_was_measured(model, tmp_path):
    """Ctrl-C in the last round of the second point: the point is kept with the rounds it had."""
    n_calls = 0

    def interrupt(tokens):
        nonlocal n_calls
        n_calls += 1
        if n_calls == 2 * (PLAN.warmups + 5):
            raise KeyboardInterrupt

    plan = dataclasses.replace(PREFILL, repeats=5)
    outcome = run(model, plan, library("peer", spoil=interrupt), out=tmp_path / "run")
    assert outcome.is_interrupted
    assert [(r["context"], r["subject"], r["n"]) for r in outcome.rows] == [
        *((12, "braid", 5), (12, "peer", 5)),
        *((24, "braid", 5), (24, "peer", 4)),
    ]
    (file,) = outcome.files
    assert file.name == "bench-prefill-cpu-fp32.json"
    assert file.is_file()


def test_no_peer_at_all_is_refused_before_anything_is_measured(model):
    with pytest.raises(InputError, match=r"--peers: none .* is installed \(fake\)"):
        run(model, PREFILL, library(is_installed=False))


def test_memory_of_a_call_is_told_without_what_others_hold():
    class Meter:
        how = "by hand"
        now = most = 0

        def used(self):
            self.most = self.now
            return self.now

        def peak(self):
            return self.most

        def take(self, most, kept):
            self.most, self.now = self.now + most, self.now + kept

    meter = Meter()
    ours, theirs = Gauge(meter), Gauge(meter)
    ours.run(lambda: meter.take(100, 100))
    theirs.run(lambda: meter.take(1000, 1000))
    ours.run(lambda: meter.take(50, 30))
    ours.run(lambda: meter.take(50, 0))
    theirs.run(lambda: meter.take(7, 0))
    assert ours.peaks == [100, 150, 180]
    assert theirs.peaks == [1000, 1007]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"contexts": (8, 0)}, "--contexts 0: must be"),
        ({"contexts": ()}, "--contexts"),
        ({"batch_sizes": (-1,)}, "--batch-sizes -1: must be"),
        ({"new_tokens": 1}, "--new-tokens 1: must be at least 2"),
        ({"repeats": 2}, "--repeats 2: must be at least 3"),
        ({"threads": -1}, "--threads -1"),
        ({"seed": -1}, "--seed -1"),
        ({"dtype": "fp8"}, "dtype = 'fp8': allowed are fp32 and bf16"),
    ],
)
def test_what_a_plan_cannot_be(fields, says):
    with pytest.raises(InputError, match=says):
        Plan(**fields)

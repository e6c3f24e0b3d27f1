"""Every text is done exactly once, whatever the endpoint does and whenever the run is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from braidlm.cli.main import main
from braidlm.data.paraphrase.folder import JOURNAL, read_manifest, read_pairs, read_rejected
from braidlm.data.paraphrase.openai import OpenAI, OpenAIConfig
from braidlm.data.paraphrase.reading import TextInput
from braidlm.errors import InputError

from ..conftest import write_jsonl
from .making import accepted, made, reasons
from .stub import Plan, Stub, always, closed_port, first, reworded, serving

ROOT = Path(__file__).parents[3]
TEXTS = [f"the small dog number {i} ran over the hill" for i in range(24)]
PROBE = "The cat sat on the mat."
FAULTS = ["http:500", "http:429", "close", "half", "html", "body:{}", "http:503:0"]
ENDS = {
    "ok": "",
    "http:400::no": "refused",
    "http:413": "too_long",
    "cut": "truncated",
    "null": "empty_answer",
    "said:I cannot do that.": "declined",
    "http:504": "http_504",
}


def method(url: str, source: Path, **fields: Any) -> OpenAI:
    usual = {"url": url, "model": "m", "retries": 4, "first_wait_sec": 0.001, "timeout_sec": 5.0}
    config = OpenAIConfig.of({**usual, **fields}, "--method openai")
    return OpenAI(config, TextInput(path=str(source)), seed=0)


def mischief(seed: int) -> tuple[Plan, dict[str, int], dict[str, str]]:
    """A plan: 0 to 3 faults of each text, then how it ends; requests and reasons to expect."""
    faults, ends, n_asked = {}, {PROBE: "ok"}, {}
    for text in TEXTS:
        rng = random.Random(f"{seed} {text}")
        ends[text] = rng.choice(list(ENDS)) if rng.random() < 0.4 else "ok"
        is_lost = ends[text] == "http:504"
        faults[text] = [] if is_lost else rng.choices(FAULTS, k=rng.choice([0, 0, 0, 1, 3]))
        n_asked[text] = 5 if is_lost else len(faults[text]) + 1

    def plan(text: str, before: int) -> str:
        wrong = faults.get(text, [])
        return wrong[before] if before < len(wrong) else ends[text]

    return plan, n_asked, {text: ENDS[ends[text]] for text in TEXTS}


def check_folder(out: Path, expected: dict[str, str]) -> None:
    """Each text stands in one of the files, once, and as its last answer says."""
    found = {pair.text: "" for pair in read_pairs(out)}
    lines = [pair.text for pair in read_pairs(out)]
    for pair, reason in read_rejected(out):
        found[pair.text] = reason.partition(":")[0]
        lines.append(pair.text)
    assert Counter(lines) == Counter(TEXTS)
    assert found == expected
    assert all(pair.paraphrase == reworded(pair.text) for pair in read_pairs(out))
    counts = read_manifest(out)["counts"]
    assert counts["read"] == len(TEXTS) == counts["accepted"] + sum(counts["rejected"].values())


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.sampled_from([1, 3, 16]))
def test_each_text_is_asked_as_often_as_said_and_done_once(tmp_path_factory, seed, concurrency):
    folder = tmp_path_factory.mktemp("run")
    source = write_jsonl(folder / "in.jsonl", TEXTS)
    plan, n_asked, expected = mischief(seed)
    with serving(plan) as stub:
        done = made(method(stub.url, source, concurrency=concurrency), folder / "out")
    assert not done.stopped
    check_folder(folder / "out", expected)
    probes = stub.asked.pop(PROBE, 0)
    assert stub.asked == n_asked
    lost = sum(reason == "http_504" for reason in expected.values())
    assert lost <= probes <= lost + concurrency  # and where a refusal came before any answer
    assert stub.most_at_once <= concurrency


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 8]))
def test_a_budget_is_never_passed_and_the_next_run_does_the_rest(
    tmp_path_factory, seed, concurrency
):
    folder = tmp_path_factory.mktemp("run")
    source = write_jsonl(folder / "in.jsonl", TEXTS)
    plan, _, expected = mischief(seed)
    rng = random.Random(seed)
    by_attempt: Counter[str] = Counter()  # a text begins anew with each run

    def anew(text: str, before: int) -> str:
        by_attempt[text] += 1
        return plan(text, by_attempt[text] - 1)

    with serving(anew) as stub:
        for _ in range(100):
            by_attempt.clear()
            before, limit = stub.n_asked, rng.randint(8, 30)
            asker = method(stub.url, source, concurrency=concurrency, max_requests=limit)
            done = made(asker, folder / "out")
            assert stub.n_asked - before <= limit
            if not done.stopped:
                break
            assert done.stopped == f"the budget of {limit} requests is spent"
        else:
            pytest.fail("it never ended")
    check_folder(folder / "out", expected)


def command(source: Path, out: Path, url: str, *words: str) -> list[str]:
    fields = {"url": url, "model": "m", "retries": 4, "first_wait_sec": 0.001, "concurrency": 3}
    settings = [word for k, v in fields.items() for word in ("--set", f"{k}={v}")]
    given = ["paraphrase", str(source), "--method", "openai", "--out", str(out), "--quiet"]
    return [*given, *settings, *words]


def start(*words: str) -> subprocess.Popen[bytes]:
    run = [sys.executable, "-m", "braidlm", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(run, cwd=ROOT, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.parametrize(
    ("seed", "n_kills"), [(0, 2), *(pytest.param(n, 6, marks=pytest.mark.slow) for n in (1, 2, 3))]
)
def test_a_run_that_is_killed_at_any_time_loses_and_repeats_nothing(tmp_path, seed, n_kills):
    """What stood in the journal at a kill is not asked again; nothing else is missing."""
    source = write_jsonl(tmp_path / "in.jsonl", TEXTS)
    out = tmp_path / "out"
    plan, n_asked, expected = mischief(seed)
    rng = random.Random(seed)
    kept: dict[str, int] = {}
    with serving(lambda text, before: slowed(plan(text, before))) as stub:
        for _ in range(n_kills):
            begun = stub.n_asked
            run = start(*command(source, out, stub.url))
            wait_for(stub, begun + rng.randint(1, 60 // n_kills), run)
            run.kill()
            run.communicate()
            assert {text: stub.asked[text] for text in kept} == kept
            kept = {text: stub.asked[text] for text in recorded(out)}
        run = start(*command(source, out, stub.url))
        assert run.communicate()[1] == b""
    assert run.returncode == 0
    assert {text: stub.asked[text] for text in kept} == kept
    assert kept
    check_folder(out, expected)
    for text, n in n_asked.items():
        assert n <= stub.asked[text] <= n * (n_kills + 1)


def slowed(action: str) -> str:
    return "slow:0.03" if action == "ok" else action


def wait_for(stub: Stub, n: int, run: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while stub.n_asked < n and run.poll() is None and time.monotonic() < end:
        time.sleep(0.002)


def recorded(out: Path) -> list[str]:
    """Texts of whole lines of the journal."""
    path = out / JOURNAL
    whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    return [json.loads(line)["text"] for line in whole.splitlines()]


def test_only_the_paraphrases_that_had_no_answer_are_asked_again(tmp_path, capsys):
    """Of three for each text the second has none; what was accepted or declined is not asked."""
    source, out = write_jsonl(tmp_path / "in.jsonl", TEXTS[:4]), tmp_path / "out"
    words = command(source, out, "URL", "--set", "n=3", "--set", "retries=0")
    plan = ["ok", "http:504", "said:I cannot do that."]
    with serving(lambda text, before: "ok" if text == PROBE else plan[before]) as stub:
        assert main([w.replace("URL", stub.url) for w in words]) == 0
    names = [name for name, _ in accepted(out)]
    assert [reason.partition(":")[0] for reason in reasons(out).values()] == [
        "http_504",
        "declined",
    ] * 4
    asked = {text: [b["seed"] for b in stub.bodies if is_about(b, text)] for text in TEXTS[:4]}
    with serving(lambda text, before: f"said:Over the hill ran {text.split(' ran')[0]}") as again:
        assert main([w.replace("URL", again.url) for w in [*words, "--retry-failed"]]) == 0
    assert again.n_asked == 4
    for text, seeds in asked.items():
        assert [b["seed"] for b in again.bodies if is_about(b, text)] == [seeds[1]]
    both = [n for name in names for n in (name, name.replace("#0", "#1"))]
    assert [name for name, _ in accepted(out)] == both
    assert set(reasons(out).values()) == {"declined"}
    assert main([w.replace("URL", again.url) for w in [*words, "--retry-failed"]]) == 0
    capsys.readouterr()


def is_about(body: dict[str, Any], text: str) -> bool:
    return body["messages"][-1]["content"].endswith(f"Text: {text}")


def test_an_endpoint_that_goes_down_half_way_is_one_sentence_and_a_second_call_goes_on(
    tmp_path, capsys
):
    source = write_jsonl(tmp_path / "in.jsonl", TEXTS)
    words = command(source, tmp_path / "out", "URL", "--set", "retries=1")
    with serving(dies_after=10) as stub:
        assert main([w.replace("URL", stub.url) for w in words]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"braid: the endpoint {stub.url} does not work: it ended the connection")
    assert told.endswith("; run it again to go on\n")
    assert told.count("\n") == 1
    n_done = len(list(read_pairs(tmp_path / "out")))
    assert 7 <= n_done <= 10
    with serving() as again:  # at another address, which decides nothing
        assert main([w.replace("URL", again.url) for w in words]) == 0
    assert again.n_asked == len(TEXTS) - n_done
    check_folder(tmp_path / "out", dict.fromkeys(TEXTS, ""))


def test_interrupting_a_run_does_not_wait_for_the_endpoint(tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", TEXTS)
    plan = lambda text, before: "ok" if text in TEXTS[:12] else "hang"  # noqa: E731
    with serving(plan) as stub:
        run = start(*command(source, tmp_path / "out", stub.url))
        wait_for(stub, 12, run)
        time.sleep(0.2)
        begun = time.monotonic()
        run.send_signal(signal.SIGINT)
        _, told = run.communicate(timeout=30)
        assert time.monotonic() - begun < 10  # the hanging would be 20, and be tried again
    assert run.returncode == 130
    assert told == b"braid: interrupted\n"
    kept = [pair.text for pair in read_pairs(tmp_path / "out")]
    assert len(kept) >= 5
    assert set(kept) <= {text for text in TEXTS if plan(text, 0) == "ok"}


class TestSettings:
    def test_where_and_how_fast_decide_nothing_and_the_rest_does(self, tmp_path):
        source = write_jsonl(tmp_path / "in.jsonl", TEXTS[:3])
        with serving() as stub:
            words = command(source, tmp_path / "out", stub.url)
            assert main([*words, "--set", "max_requests=2"]) == 2
            assert main([*words, "--set", "concurrency=1", "--set", "timeout_sec=9"]) == 0
            assert main([*words, "--set", "temperature=0.1"]) == 2
        found = read_manifest(tmp_path / "out")["settings"]
        expected = {"model", "prompt", "system", "n", "temperature", "top_p", "max_tokens"}
        assert set(found) == expected

    def test_each_paraphrase_of_a_text_has_a_seed_of_its_own_and_always_the_same(self, tmp_path):
        source = write_jsonl(tmp_path / "in.jsonl", TEXTS[:4])
        seeds = []
        for concurrency in (1, 4):
            with serving(always("said:words")) as stub:
                made(
                    method(stub.url, source, n=3, concurrency=concurrency),
                    tmp_path / str(concurrency),
                )
            seeds.append({(b["messages"][-1]["content"], b["seed"]) for b in stub.bodies})
            assert len({b["seed"] for b in stub.bodies}) == 12
            assert all(0 <= b["seed"] < 2**31 for b in stub.bodies)
        assert seeds[0] == seeds[1]
        assert list(reasons(tmp_path / "1").values()) == ["repeated"] * 8

    def test_several_paraphrases_fail_one_by_one(self, tmp_path):
        source = write_jsonl(tmp_path / "in.jsonl", TEXTS[:1])
        with serving(lambda text, before: ["ok", "cut", "said:other words"][before]) as stub:
            made(method(stub.url, source, n=3), tmp_path / "out")
        name = accepted(tmp_path / "out")[0][0].removesuffix("#0")
        assert accepted(tmp_path / "out") == [
            (f"{name}#0", reworded(TEXTS[0])),
            (f"{name}#2", "other words"),
        ]
        assert reasons(tmp_path / "out") == {f"{name}#1": "truncated: at 512 tokens"}

    def test_the_key_comes_from_the_environment_and_is_written_nowhere(
        self, tmp_path, monkeypatch, capsys
    ):
        monkeypatch.setenv("MY_KEY", "sk-hush")
        source = write_jsonl(tmp_path / "in.jsonl", TEXTS[:2])
        for name, plan in (("good", first(1, "http:500")), ("bad", always("echo_key"))):
            with serving(plan) as stub:
                words = command(source, tmp_path / name, stub.url, "--set", "key_env=MY_KEY")
                assert main(words) == (2 if name == "bad" else 0)
            assert stub.headers[0]["Authorization"] == "Bearer sk-hush"
        said = capsys.readouterr()
        assert "wrong key Bearer ***" in said.err
        assert "sk-hush" not in said.err + said.out
        for file in (f for f in tmp_path.rglob("*") if f.is_file()):
            assert b"sk-hush" not in file.read_bytes()

    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            ({"url": "h:80"}, "url 'h:80' is no address of an endpoint"),
            ({"url": "http://a:hush@h/v1"}, "a password or a query has no place in it"),
            ({"model": ""}, "model"),
            ({"prompt": "Rewrite this."}, r"must hold '\{text\}' once"),
            ({"n": 0}, "n"),
            ({"temprature": 1.0}, "did you mean 'temperature'"),
            ({"key_env": "BRAID_NO_SUCH_KEY"}, "environment has no such variable"),
        ],
    )
    def test_what_is_wrong_is_one_sentence(self, tmp_path, fields, says):
        source = write_jsonl(tmp_path / "in.jsonl", TEXTS)
        with pytest.raises(InputError, match=says) as caught:
            method(**{"url": "http://h/v1", "source": source, **fields})
        assert "hush" not in str(caught.value)

    def test_nobody_listens(self, tmp_path, capsys):
        source = write_jsonl(tmp_path / "in.jsonl", TEXTS)
        url = f"http://127.0.0.1:{closed_port()}/v1"
        assert main(command(source, tmp_path / "out", url)) == 2
        assert f"the endpoint {url} does not work: it cannot be reached" in capsys.readouterr().err
        assert not recorded(tmp_path / "out")

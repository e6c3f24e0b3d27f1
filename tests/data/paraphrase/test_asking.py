"""How often an endpoint is asked, how long is waited, and who is blamed for what."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from braidlm.data.paraphrase import asking
from braidlm.data.paraphrase.asking import Answer, Asker, Patience, most_tokens, read_answer
from braidlm.data.paraphrase.budget import Budget
from braidlm.data.paraphrase.endpoint import Address, Endpoint, RequestError
from braidlm.data.paraphrase.method import PassageError, StoppedError

from .stub import Stub, always, closed_port, first, reworded, serving

PROBE = "The cat sat on the mat."
PASSING = [
    "http:500",
    "http:502",
    "close",
    "half",
    "html",
    "body:{}",
    'body:{"choices": []}',
    "hang",
]


def asker(url: str, budget: Budget | None = None, **fields: Any) -> Asker:
    usual = {"timeout_sec": 5.0, "retries": 3, "first_wait_sec": 0.001}
    body = {"model": "m", "max_tokens": 20}
    endpoint = Endpoint(Address.parse(url))
    return Asker(endpoint, budget or Budget(), Patience(**{**usual, **fields}), body)


def patience(action: str) -> float:
    return 0.3 if action == "hang" else 5.0


def ask(to: Asker, text: str = "One.") -> Answer:
    return to.ask(f"Text: {text}", seed=7)


@pytest.mark.parametrize("action", PASSING)
@pytest.mark.parametrize("n", [1, 3])
def test_what_fails_is_sent_again_until_it_is_answered(action, n):
    with serving(first(n, action)) as stub:
        assert ask(asker(stub.url, timeout_sec=patience(action))).text == reworded("One.")
    assert stub.asked == {"One.": n + 1}


@pytest.mark.parametrize("action", PASSING)
def test_a_text_without_an_answer_is_blamed_if_the_endpoint_answers_another(action):
    with (
        serving(lambda text, before: "ok" if text == PROBE else action) as stub,
        pytest.raises(PassageError) as caught,
    ):
        ask(asker(stub.url, timeout_sec=patience(action)))
    assert stub.asked == {"One.": 4, PROBE: 1}
    cause = str(caught.value).partition(":")[0]
    assert cause in ("http_500", "http_502", "connection_lost", "not_json", "no_choices", "timeout")


@pytest.mark.parametrize("action", PASSING)
def test_an_endpoint_that_answers_nothing_is_blamed_itself(action):
    with (
        serving(always(action)) as stub,
        pytest.raises(StoppedError, match=r"127.0.0.1:\d+/v1 does not work: .*4 times"),
    ):
        ask(asker(stub.url, timeout_sec=patience(action)))
    assert stub.asked == {"One.": 4, PROBE: 4}


def test_nobody_listens():
    with pytest.raises(StoppedError, match="does not work: it cannot be reached"):
        ask(asker(f"http://127.0.0.1:{closed_port()}/v1"))


@pytest.mark.parametrize("status", ["429", "503"])
def test_a_busy_endpoint_is_never_a_texts_fault(status):
    with serving(always(f"http:{status}::wait")) as stub, pytest.raises(StoppedError, match="wait"):
        ask(asker(stub.url))
    assert stub.asked == {"One.": 4}


class TestRefusal:
    def test_it_is_not_asked_again(self):
        plan = lambda text, before: "http:400::no" if text == "Two." else "ok"  # noqa: E731
        with serving(plan) as stub:
            to = asker(stub.url)
            ask(to)
            with pytest.raises(PassageError, match="refused: it answered HTTP 400: no"):
                ask(to, "Two.")
        assert stub.asked == {"One.": 1, "Two.": 1}

    def test_the_first_answer_of_all_tells_who_is_to_blame(self):
        with (
            serving(lambda text, before: "ok" if text == PROBE else "http:400") as stub,
            pytest.raises(PassageError),
        ):
            ask(asker(stub.url))
        assert stub.asked == {"One.": 1, PROBE: 1}

    def test_an_endpoint_that_takes_no_request_of_this_form_is_blamed(self):
        with (
            serving(always("http:400::unknown field 'seed'")) as stub,
            pytest.raises(StoppedError, match="unknown field 'seed'"),
        ):
            ask(asker(stub.url))


class TestWaiting:
    def test_it_doubles_up_to_a_limit_and_is_shortened_at_random(self, monkeypatch):
        drawn: list[tuple[float, float]] = []

        def uniform(low: float, high: float) -> float:
            drawn.append((low, high))
            return low

        monkeypatch.setattr(asking.random, "uniform", uniform)
        with serving(first(4, "http:500")) as stub:
            ask(asker(stub.url, retries=4, first_wait_sec=0.1, max_wait_sec=0.25))
        gaps = [b - a for a, b in zip(stub.times, stub.times[1:], strict=False)]
        for gap, least in zip(gaps, [0.05, 0.1, 0.125, 0.125], strict=True):
            assert least <= gap < least + 0.5
        assert drawn == [(0.5, 1)] * 4

    def test_retry_after_holds_all_threads(self):
        plan = lambda text, before: "http:429:0.4" if text == "a" and not before else "ok"  # noqa: E731
        with serving(plan) as stub:
            to = asker(stub.url)
            with ThreadPoolExecutor(1) as pool:
                started = pool.submit(ask, to, "a")
                while not stub.times:
                    time.sleep(0.005)
                time.sleep(0.05)
                ask(to, "b")
                started.result()
        assert stub.asked == {"a": 2, "b": 1}
        assert min(stub.times[1:]) - stub.times[0] >= 0.4

    def test_a_day_is_not_waited_for(self):
        with (
            serving(always("http:429:86400:quota")) as stub,
            pytest.raises(StoppedError, match=r"left alone for 86400 seconds: .*quota"),
        ):
            ask(asker(stub.url))
        assert stub.n_asked == 1

    def test_closing_ends_waits_and_requests(self):
        with serving(lambda text, before: "hang" if text == "a" else "http:503:30") as stub:
            to = asker(stub.url, timeout_sec=15)
            with ThreadPoolExecutor(2) as pool:
                asked = [pool.submit(ask, to, text) for text in "ab"]
                while stub.n_asked < 2:
                    time.sleep(0.005)
                start = time.monotonic()
                to.close()
                for future in asked:
                    with pytest.raises(StoppedError, match="interrupted"):
                        future.result()
            assert time.monotonic() - start < 5


class TestBudget:
    def test_failed_requests_and_the_probe_count(self):
        with (
            serving(always("http:500")) as stub,
            pytest.raises(StoppedError, match="budget of 3 requests is spent"),
        ):
            ask(asker(stub.url, Budget(requests=3)))
        assert stub.n_asked == 3

    @pytest.mark.parametrize("limit", [1, 17, 40])
    def test_no_more_is_sent_by_many_threads(self, limit):
        plan = lambda text, before: "http:500" if (before + len(text)) % 3 else "ok"  # noqa: E731
        with serving(plan) as stub:
            ended = in_threads(
                asker(stub.url, Budget(requests=limit)), ["x" * i for i in range(99)]
            )
        assert stub.n_asked == limit
        assert StoppedError in ended

    def test_no_more_tokens_are_used_by_many_threads(self):
        """The server counts what it is asked to use at most, and 40 tokens are less than that."""
        with serving(tokens=40) as stub:
            in_threads(asker(stub.url, Budget(tokens=1000)), [f"t{i:02}" for i in range(90)])
        most = most_tokens(stub.bodies[0])
        assert 1000 - most < 40 * stub.n_asked <= 1000

    @pytest.mark.parametrize(("action", "used"), [("close", 92), ("http:429", 0), ("html", 92)])
    def test_a_failed_request_costs_what_it_may_have_cost(self, action, used):
        budget = Budget()
        with serving(always(action)) as stub, pytest.raises(StoppedError):
            ask(asker(stub.url, budget, retries=0))
        most = [most_tokens(body) for body in stub.bodies]
        assert budget.tokens_used == (sum(most) if used else 0)
        assert most[0] == len("Text: One.") + 64 + 20

    def test_an_endpoint_that_does_not_count_is_taken_to_use_all(self):
        budget = Budget()
        with serving(always('body:{"choices": [{"message": {"content": "x"}}]}')) as stub:
            ask(asker(stub.url, budget))
        assert budget.tokens_used == most_tokens(stub.bodies[0])

    def test_seconds_cut_a_request_and_do_not_blame_it(self):
        start = time.monotonic()
        with (
            serving(always("hang")) as stub,
            pytest.raises(StoppedError, match=r"budget of 0.3 seconds is spent"),
        ):
            ask(asker(stub.url, Budget(seconds=0.3)))
        assert time.monotonic() - start < 2
        assert stub.n_asked == 1


def in_threads(to: Asker, texts: list[str]) -> list[Any]:
    def one(text: str) -> Any:
        try:
            return ask(to, text)
        except (PassageError, StoppedError) as error:
            return type(error)

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, texts))


def test_what_a_request_says():
    with serving() as stub:
        asker(stub.url).ask("Text: One.", system="Be brief.", seed=9)
    assert stub.bodies == [
        {
            "model": "m",
            "max_tokens": 20,
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Text: One."},
            ],
            "seed": 9,
            "stream": False,
        }
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"message": {"content": "a"}, "finish_reason": "length"}, Answer("a", True)),
        ({"message": {"content": "a"}, "finish_reason": None}, Answer("a", False)),
        ({"message": {"content": None}, "finish_reason": "tool_calls"}, Answer("", False)),
        ({"message": {"content": 5}}, None),
        ({"message": "a"}, None),
        ({"text": "a"}, None),
        ("a", None),
    ],
)
def test_an_answer_is_read_or_is_none(choice, expected):
    found = {"choices": [choice, {"message": {"content": "a second one"}}]}
    if expected:
        assert read_answer(found) == expected
        return
    with pytest.raises(RequestError, match="no text in"):
        read_answer(found)


def test_stub_is_as_its_plan_says():
    """What the other tests count on: requests at once are seen as such."""
    with serving(always("slow:0.1")) as stub:
        in_threads(asker(stub.url), list("abcdef"))
        assert isinstance(stub, Stub)
        assert stub.most_at_once > 1

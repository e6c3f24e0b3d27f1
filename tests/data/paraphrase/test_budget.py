"""No limit is passed, whatever many threads do at once, and nothing that fits is refused."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braidlm.data.paraphrase.budget import Budget
from braidlm.data.paraphrase.method import StoppedError


def test_requests_are_counted_when_they_are_sent():
    budget = Budget(requests=2)
    budget.take(5)
    budget.take(5)
    with pytest.raises(StoppedError, match="budget of 2 requests is spent"):
        budget.take(5)
    assert budget.requests_sent == 2


def test_tokens_are_paid_for_before_and_settled_after():
    budget = Budget(tokens=100)
    budget.take(60)
    budget.settle(60, 10)
    budget.take(90)
    budget.settle(90, 90)
    with pytest.raises(StoppedError, match="but for 0, and the next request may take 1"):
        budget.take(1)
    assert budget.tokens_used == 100


def test_what_others_may_not_use_is_waited_for():
    budget = Budget(tokens=100)
    budget.take(80)
    threading.Timer(0.1, budget.settle, (80, 20)).start()
    start = time.monotonic()
    budget.take(80)
    assert time.monotonic() - start > 0.05


def test_seconds_end_a_wait_too():
    budget = Budget(tokens=10, seconds=0.2)
    budget.take(10)
    start = time.monotonic()
    with pytest.raises(StoppedError, match=r"budget of 0.2 seconds is spent"):
        budget.take(10)
    assert 0.15 < time.monotonic() - start < 2
    assert Budget().left_sec() == float("inf")


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(0, 60), st.integers(0, 400), st.integers(1, 8))
def test_no_limit_is_passed_by_many_threads(seed, requests, tokens, n_threads):
    budget = Budget(requests, tokens)
    lock = threading.Lock()
    spent: list[int] = []
    most = [0]
    in_flight = [0]

    def work(number: int) -> None:
        rng = random.Random(seed + number)
        while len(spent) < 200:
            reserved = rng.randint(1, 40)
            try:
                budget.take(reserved)
            except StoppedError:
                return
            with lock:  # the most that may be spent by now, as somebody outside counts it
                in_flight[0] += reserved
                most[0] = max(most[0], sum(spent) + in_flight[0])
            used = rng.randint(0, reserved)
            with lock:
                in_flight[0] -= reserved
                spent.append(used)
            budget.settle(reserved, used)

    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(work, range(n_threads)))
    if requests:
        assert len(spent) <= requests
    if tokens:
        assert most[0] <= tokens
    assert budget.requests_sent == len(spent)
    assert budget.tokens_used == sum(spent)
    if n_threads == 1 and not requests and tokens and len(spent) < 200:
        assert sum(spent) > tokens - 40  # it went as far as it could

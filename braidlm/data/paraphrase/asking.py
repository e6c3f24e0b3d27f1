"""Asking an endpoint until it answers: retries, one pause for all, and who is to blame."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from braidlm.data.paraphrase.budget import Budget
from braidlm.data.paraphrase.endpoint import Endpoint, RefusedError, RequestError
from braidlm.data.paraphrase.method import PassageError, StoppedError

_CHAT = "/chat/completions"
_PROBE = "The cat sat on the mat."
_TEMPLATE_TOKENS = 64
"""Most tokens that a chat template adds to a message."""
_JITTER = 0.5


class Patience(NamedTuple):
    """How long is waited, and how often."""

    timeout_sec: float = 120.0
    """For one request."""
    retries: int = 5
    """Times that a failed request is sent again."""
    first_wait_sec: float = 1.0
    """Before the first retry; it doubles with each, and is shortened by up to a half at random."""
    max_wait_sec: float = 60.0
    """What doubling ends at."""
    max_retry_after_sec: float = 300.0
    """The longest Retry-After that is waited for; a longer one ends the run."""


class Answer(NamedTuple):
    """What a model said."""

    text: str
    is_cut: bool
    """It ended at the limit of tokens, not by itself."""


class Asker:
    """Asks one endpoint from any number of threads.

    Before a text is blamed for having no answer, the endpoint is asked a plain sentence. If that
    has no answer either, the endpoint is down, and the run ends with the text not done.

    Args:
        endpoint: what is asked.
        budget: what may be spent.
        patience: waiting and retries.
        body: what each request says beside its messages: model, max_tokens, sampling.
    """

    def __init__(
        self, endpoint: Endpoint, budget: Budget, patience: Patience, body: Mapping[str, Any]
    ) -> None:
        self._endpoint, self._budget, self._patience = endpoint, budget, patience
        self._body = dict(body)
        self._lock = threading.Lock()
        self._not_before = 0.0
        self._has_answered = False
        self._closed = threading.Event()

    def ask(self, prompt: str, *, system: str = "", seed: int) -> Answer:
        """Return the answer to one prompt.

        Raises:
            PassageError: this text has no answer, though the endpoint works.
            StoppedError: the endpoint is down, or the budget spent.
            InputError: the endpoint refuses whatever is asked.
        """
        try:
            return self._persist(self._request(prompt, system, seed))
        except RefusedError as error:
            if not self._has_answered:  # else requests of this form are taken
                self._probe(error, system, seed)
            raise PassageError(f"{error.cause}: {error}") from None
        except RequestError as error:
            if error.is_down:
                raise self._down(error) from None
            self._probe(error, system, seed)
            raise PassageError(f"{error.cause}: {error}") from None

    def close(self) -> None:
        """End all requests and waits; those who wait get `StoppedError`."""
        self._closed.set()
        self._endpoint.abort()

    def _request(self, prompt: str, system: str, seed: int) -> dict[str, Any]:
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        return {**self._body, "messages": messages, "seed": seed, "stream": False}

    def _persist(self, request: dict[str, Any]) -> Answer:
        """Send a request until it is answered, at most 1 + retries times."""
        for attempt in range(self._patience.retries + 1):
            self._wait_for_turn()
            try:
                return self._once(request)
            except RequestError as error:
                if attempt == self._patience.retries:
                    raise
                self._sleep(self._wait_sec(attempt, error))
        raise AssertionError  # the loop returns or raises

    def _once(self, request: dict[str, Any]) -> Answer:
        reserved = most_tokens(request)
        self._budget.take(reserved)
        used = 0
        try:
            timeout = min(self._patience.timeout_sec, self._budget.left_sec())
            found = self._endpoint.post(_CHAT, request, timeout)
            used = _tokens_of(found, reserved)
            answer = read_answer(found)
        except RequestError as error:
            used = used or (reserved if error.may_have_run else 0)
            raise
        finally:
            self._budget.settle(reserved, used)
        self._has_answered = True
        return answer

    def _probe(self, error: Exception, system: str, seed: int) -> None:
        """Return if the endpoint answers a plain sentence."""
        try:
            self._persist(self._request(_PROBE, system, seed))
        except (RequestError, RefusedError):
            raise self._down(error) from None

    def _down(self, error: Exception) -> StoppedError:
        tries = self._patience.retries + 1
        return StoppedError(
            f"the endpoint {self._endpoint.address} does not work: {error} "
            f"(a request is sent {tries} {'time' if tries == 1 else 'times'} at most)"
        )

    def _wait_sec(self, attempt: int, error: RequestError) -> float:
        p = self._patience
        wait = min(p.first_wait_sec * 2.0**attempt, p.max_wait_sec)
        # Not from a seed: what is asked does not depend on it, and runs must not wait in step.
        wait *= random.uniform(1 - _JITTER, 1)
        if error.wait_sec is None:
            return wait
        if error.wait_sec > p.max_retry_after_sec:
            raise StoppedError(
                f"the endpoint {self._endpoint.address} asks to be left alone for "
                f"{error.wait_sec:.0f} seconds: {error}"
            )
        with self._lock:  # it speaks to all threads, not to this one alone
            self._not_before = max(self._not_before, time.monotonic() + error.wait_sec)
        return wait * _JITTER

    def _wait_for_turn(self) -> None:
        while (wait := self._not_before - time.monotonic()) > 0:
            self._sleep(wait)
        self._sleep(0)

    def _sleep(self, seconds: float) -> None:
        left = self._budget.left_sec()
        if self._closed.wait(min(seconds, left)):
            raise StoppedError("interrupted")
        self._budget.left_sec()


def read_answer(found: Mapping[str, Any]) -> Answer:
    """Return the first choice of a chat completion.

    Raises:
        RequestError: there is none.
    """
    try:
        choice = found["choices"][0]
        text = choice["message"]["content"]
    except (KeyError, IndexError, TypeError):
        text = choice = None
    if text is None and isinstance(choice, Mapping):
        text = ""  # a model that only reasons, or calls a tool, says null
    if not isinstance(text, str) or not isinstance(choice, Mapping):
        told = 'its answer has no text in "choices"'
        raise RequestError("no_choices", told, may_have_run=True)
    return Answer(text, choice.get("finish_reason") == "length")


def most_tokens(request: Mapping[str, Any]) -> int:
    """Return the most tokens that a request can take: a token is at least one byte of text."""
    messages = request["messages"]
    n_bytes = sum(len(m["content"].encode("utf-8", "replace")) for m in messages)
    return n_bytes + _TEMPLATE_TOKENS * len(messages) + request["max_tokens"]


def _tokens_of(found: Mapping[str, Any], reserved: int) -> int:
    """Return the tokens that the endpoint counted; what was reserved where it counts none."""
    usage = found.get("usage")
    total = usage.get("total_tokens") if isinstance(usage, Mapping) else None
    if not isinstance(total, int) or isinstance(total, bool) or total <= 0:
        return reserved
    return total

"""What may be spent on an endpoint: requests, tokens and seconds, shared by many threads."""

from __future__ import annotations

import threading
import time

from braidlm.data.paraphrase.method import StoppedError


class Budget:
    """Nothing is sent before its most expensive outcome is paid for, so no limit is passed.

    The tokens of a request are reserved before it and settled by what the endpoint counts after
    it; an endpoint that counts more than was asked of it is the one thing that can pass the limit.

    Args:
        requests: at most so many are sent, those that fail and are sent again included; 0: any.
        tokens: of prompts and answers; 0: any.
        seconds: from now on; 0: any.
    """

    def __init__(self, requests: int = 0, tokens: int = 0, seconds: float = 0.0) -> None:
        self._requests, self._tokens, self._seconds = requests, tokens, seconds
        self._end = time.monotonic() + seconds if seconds else float("inf")
        self._sent = self._used = self._reserved = 0
        self._change = threading.Condition()

    @property
    def requests_sent(self) -> int:
        """Requests sent so far."""
        return self._sent

    @property
    def tokens_used(self) -> int:
        """Tokens of the requests that have ended."""
        return self._used

    def left_sec(self) -> float:
        """Return the seconds that are left; infinity without a limit.

        Raises:
            StoppedError: none are.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise StoppedError(f"the budget of {self._seconds:g} seconds is spent")
        return left

    def take(self, tokens: int) -> None:
        """Pay for one request of at most so many tokens, before it is sent.

        Waits while what others have reserved and may not use decides whether there is enough.

        Raises:
            StoppedError: the budget is spent.
        """
        with self._change:
            while True:
                left = self.left_sec()
                if self._requests and self._sent >= self._requests:
                    raise StoppedError(f"the budget of {self._requests} requests is spent")
                if not self._tokens or self._used + self._reserved + tokens <= self._tokens:
                    break
                if not self._reserved:
                    left_over = max(self._tokens - self._used, 0)
                    raise StoppedError(
                        f"the budget of {self._tokens} tokens is spent but for {left_over}, and "
                        f"the next request may take {tokens}"
                    )
                self._change.wait(min(left, 60.0))
            self._sent += 1
            self._reserved += tokens

    def settle(self, reserved: int, used: int) -> None:
        """Say what a request used of what it had reserved."""
        with self._change:
            self._reserved -= reserved
            self._used += used
            self._change.notify_all()

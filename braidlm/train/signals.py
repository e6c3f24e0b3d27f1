"""A first signal asks the loop to stop after its step; a second one ends the process at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

HANDLED = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Catches SIGTERM and SIGINT while inside; `signal_name` tells which one came, or None.

    Outside the main thread Python lets nobody catch signals: then nothing is caught.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in HANDLED}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal_name is None:
            self.signal_name = signal.Signals(number).name
            return
        # The handlers from before end the process (SIGTERM) or raise KeyboardInterrupt (SIGINT).
        self._restore()
        signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

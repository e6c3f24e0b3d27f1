"""What a person sees of a run: one line that moves on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import Protocol, TextIO


class Progress(Protocol):
    """What the loop tells whoever watches."""

    def start(self, name: str, step: int, steps: int) -> None:
        """Called once: the run's name, updates done so far, updates in all."""

    def update(self, step: int, loss: float, n_tokens: int) -> None:
        """Called after every update with its loss (nats per token) and its tokens."""

    def close(self, state: str) -> None:
        """Called once at the end: done, interrupted or failed."""


class Silent:
    """Says nothing."""

    def start(self, name: str, step: int, steps: int) -> None:
        """Say nothing."""

    def update(self, step: int, loss: float, n_tokens: int) -> None:
        """Say nothing."""

    def close(self, state: str) -> None:
        """Say nothing."""


class Terminal:
    """A bar on a terminal, and plain lines where the output is a file or a pipe.

    Args:
        label: shown instead of the run's name, such as "attention/seed-0".
        stream: where to write; standard error by default, so that results can be piped.
        redraw_sec: least time between two drawings of the bar.
        line_sec: least time between two plain lines.
        clock: tells the time in seconds.
    """

    def __init__(
        self,
        label: str = "",
        stream: TextIO | None = None,
        *,
        redraw_sec: float = 0.1,
        line_sec: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.is_terminal = self.stream.isatty()
        self.label = label
        self.pause_sec = redraw_sec if self.is_terminal else line_sec
        self.clock = clock
        self.step = self.steps = self.first_step = self.n_tokens = 0
        self.loss: float | None = None
        self.began = self.drawn = 0.0

    def start(self, name: str, step: int, steps: int) -> None:
        """Draw the line for the first time."""
        self.label = self.label or name
        self.step = self.first_step = step
        self.steps = steps
        self.began = self.clock()
        self._draw()

    def update(self, step: int, loss: float, n_tokens: int) -> None:
        """Draw the line anew, unless it has just been drawn."""
        self.step, self.loss = step, loss
        self.n_tokens += n_tokens
        if self.clock() - self.drawn >= self.pause_sec:
            self._draw()

    def close(self, state: str) -> None:
        """Draw the last line and leave it standing."""
        self._draw(state)
        if self.is_terminal:
            self._write("\n")

    def line(self, state: str = "") -> str:
        """Return the text of the line: name, step/steps, loss, tokens/s, time left or state."""
        elapsed = self.clock() - self.began
        parts = [f"{self.step}/{self.steps}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        if self.n_tokens and elapsed > 0:
            parts.append(f"{self.n_tokens / elapsed:,.0f} tok/s")
        done = self.step - self.first_step
        if state:
            parts.append(f"{state} in {duration(elapsed)}")
        elif done and elapsed > 0:
            parts.append(f"{duration(elapsed / done * (self.steps - self.step))} left")
        return f"{self.label}  " + "  ".join(parts)

    def _draw(self, state: str = "") -> None:
        self.drawn = self.clock()
        if not self.is_terminal:
            self._write(self.line(state) + "\n")
            return
        width = shutil.get_terminal_size().columns - 1
        bar = f"{100 * self.step // max(self.steps, 1):3d}% {blocks(self.step, self.steps, 16)} "
        self._write("\r\x1b[K" + (bar + self.line(state))[:width])

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


def blocks(step: int, steps: int, width: int) -> str:
    """Return a bar of `width` characters, filled in proportion."""
    filled = width * step // max(steps, 1)
    return "━" * filled + "─" * (width - filled)


def duration(seconds: float) -> str:
    """Return a time such as 0:07, 12:05 or 3:00:09."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"

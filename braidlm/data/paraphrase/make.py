"""The making of paraphrases: every passage once, whatever fails, is killed or comes late."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

from braidlm.data.paraphrase.folder import DUPLICATE, EMPTY, NONE, Folder, Row
from braidlm.data.paraphrase.gate import Gate, Verdict
from braidlm.data.paraphrase.method import (
    Closable,
    Draft,
    Method,
    Passage,
    PassageError,
    StoppedError,
)
from braidlm.errors import InputError

Progress = Callable[[int, int], None]
"""Told (passages done, paraphrases accepted in this run) after every batch."""
_Outcomes = Sequence[Sequence[Draft] | PassageError]


class Made(NamedTuple):
    """What a run ended with."""

    counts: dict[str, Any]
    """Of the whole folder, as its manifest has them."""
    stopped: str
    """Why there is more to be done; empty: it is complete."""


def make(
    method: Method,
    gate: Gate,
    out: Path,
    header: Mapping[str, Any],
    *,
    retry_failed: bool = False,
    progress: Progress | None = None,
) -> Made:
    """Write the paraphrases of a method into a folder, or go on where an earlier run ended.

    Each passage that is done is in the folder before the next batch is asked for, so a killed run
    loses what was being written at that moment and nothing else. When it ends early, by an error
    or by Ctrl-C, batches that have begun are waited for and kept; Ctrl-C ends the waiting of a
    `Closable` method.

    Args:
        method: what writes the drafts.
        gate: what judges them.
        out: the folder.
        header: "method", "settings", "seed", "source" and "gate": what a later run must share.
        retry_failed: ask once more for paraphrases that had no answer in earlier runs; what
            stands in the folder stays until the answer is there.
        progress: told how far the work is.

    Raises:
        InputError: the folder or the input does not fit, or what the method says.
        OSError: the folder cannot be written.
    """
    with Folder.open(out, header) as folder:
        return _Making(method, gate, folder, retry_failed, progress).run()


class _Making:
    """One run: what is in flight, and what this run has seen of the input."""

    def __init__(
        self,
        method: Method,
        gate: Gate,
        folder: Folder,
        retry_failed: bool,
        progress: Progress | None,
    ) -> None:
        self._method, self._gate, self._folder = method, gate, folder
        self._retries, self._progress = retry_failed, progress
        self._order: list[str] = []
        self._first: dict[bytes, str] = {}  # of each text, the passage that had it first
        self._in_flight: dict[Future[_Outcomes], list[Passage]] = {}
        self._n_accepted = 0

    def run(self) -> Made:
        is_complete, stopped = False, ""
        try:
            with ThreadPoolExecutor(self._method.workers) as pool:
                try:
                    self._fill(pool)
                    while self._in_flight:
                        self._collect()
                except KeyboardInterrupt:
                    if isinstance(self._method, Closable):
                        self._method.close()
                    raise
                finally:
                    self._drain()
            self._check_all_were_seen()
            is_complete = True
        except StoppedError as error:
            stopped = str(error)
        finally:
            counts = self._folder.finish(self._order, is_complete=is_complete)
        return Made(counts, stopped)

    def _fill(self, pool: ThreadPoolExecutor) -> None:
        """Hand out every batch, never many more at once than are worked on."""
        for batch in _batches(self._to_do(), self._method.batch_size):
            while len(self._in_flight) >= 2 * self._method.workers:
                self._collect()
            self._in_flight[pool.submit(self._method.paraphrase, batch)] = batch

    def _drain(self) -> None:
        """After an error: keep what has begun, give up what has not."""
        for future in list(self._in_flight):
            if future.cancel():
                del self._in_flight[future]
        while self._in_flight:
            try:
                self._collect()
            except (StoppedError, InputError):
                continue  # the first such error is on its way already

    def _collect(self) -> None:
        done, _ = wait(self._in_flight, return_when=FIRST_COMPLETED)
        # In the order of asking, so that one worker writes in the order of the input.
        for future in [f for f in self._in_flight if f in done]:
            batch = self._in_flight.pop(future)
            try:
                outcomes = future.result()
            except PassageError as error:
                outcomes = [error] * len(batch)
            self._keep(batch, outcomes)

    def _keep(self, batch: list[Passage], outcomes: _Outcomes) -> None:
        drafts = [
            (passage.text, draft.text)
            for passage, found in zip(batch, outcomes, strict=True)
            if not isinstance(found, PassageError)
            for draft in found
            if not draft.reason
        ]
        verdicts = iter(self._gate.judge(drafts))
        for passage, found in zip(batch, outcomes, strict=True):
            accepted, rejected = self._kept_rows(passage.id)
            for row in _rows(passage, found, verdicts, {r["paraphrase"] for r in accepted}):
                (rejected if "reason" in row else accepted).append(row)
                self._n_accepted += "reason" not in row
            for rows in (accepted, rejected):
                rows.sort(key=lambda row: row["n"])
            self._folder.record(passage.id, passage.text, accepted, rejected)
        if self._progress:
            self._progress(self._folder.n_done, self._n_accepted)

    def _kept_rows(self, passage: str) -> tuple[list[Row], list[Row]]:
        """Return what a passage has and will keep: accepted rows, and those that were answered."""
        if passage not in self._folder:
            return [], []
        entry, asked = self._folder.entry(passage), self._folder.unanswered(passage)
        return entry["accepted"], [row for row in entry["rejected"] if row["n"] not in asked]

    def _to_do(self) -> Iterator[Passage]:
        """Yield what is not done yet; what nothing can be made of is recorded on the way."""
        seen: set[str] = set()
        for passage in self._method.passages():
            if passage.id in seen:
                raise InputError(f"passage '{passage.id}': two passages of the input have this id")
            seen.add(passage.id)
            self._order.append(passage.id)
            why = self._why_not(passage)
            if passage.id in self._folder:
                if self._folder.entry(passage.id)["text"] != passage.text:
                    raise InputError(
                        f"passage '{passage.id}' is not the text that {self._folder.path} has "
                        "under this id: the input was changed; give another folder"
                    )
                if self._retries and (numbers := self._folder.unanswered(passage.id)):
                    is_all = not any(self._kept_rows(passage.id))
                    yield passage if is_all else passage._replace(wanted=tuple(numbers))
            elif why:
                self._folder.record(passage.id, passage.text, [], [_row(0, "", {}, why)])
            else:
                yield passage

    def _why_not(self, passage: Passage) -> str:
        words = " ".join(passage.text.split())
        if not words:
            return EMPTY
        key = hashlib.sha256(words.encode("utf-8", "surrogatepass")).digest()[:16]
        first = self._first.setdefault(key, passage.id)
        return "" if first == passage.id else f"{DUPLICATE}: of {first}"

    def _check_all_were_seen(self) -> None:
        if len(self._order) < self._folder.n_done:
            raise InputError(
                f"{self._folder.path} holds {self._folder.n_done} passages and the input has only "
                f"{len(self._order)}: it was changed; give another folder"
            )


def _rows(
    passage: Passage,
    found: Sequence[Draft] | PassageError,
    verdicts: Iterator[Verdict],
    texts: set[str],
) -> Iterator[Row]:
    """Yield what came of a passage; `texts` are paraphrases that it has already."""
    if isinstance(found, PassageError) or not found:
        reason = f"failed: {found}" if isinstance(found, PassageError) else NONE
        yield from (_row(n, "", {}, reason) for n in passage.wanted or (0,))
        return
    for n, draft in zip(passage.wanted or range(len(found)), found, strict=True):
        verdict = Verdict({}, draft.reason) if draft.reason else next(verdicts)
        is_again = draft.text in texts and not draft.reason
        texts.add(draft.text)
        scores = {**draft.scores, **verdict.scores}
        yield _row(n, draft.text, scores, "repeated" if is_again else verdict.reason)


def _row(n: int, paraphrase: str, scores: Mapping[str, float], reason: str) -> Row:
    row = {"n": n, "paraphrase": paraphrase, "scores": dict(scores)}
    return {**row, "reason": reason} if reason else row


def _batches(passages: Iterator[Passage], size: int) -> Iterator[list[Passage]]:
    batch: list[Passage] = []
    for passage in passages:
        batch.append(passage)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch

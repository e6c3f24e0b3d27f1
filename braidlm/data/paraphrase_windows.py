"""Windows of texts and paraphrases: which tokens stand where, before any is read.

A window of T tokens holds an original, what stands beside it, and other texts that fill the rest:

    after     bos original | second | gap | others           before    bos second | original | ...
    far       bos original | gap | second | others           plain     bos original | gap | others
    separate  bos original eos, bos gap eos, bos others ... : each a document by itself

"|" is the separator. Originals, gaps, others and what each second text would be are drawn from the
folder, the seed and the window's number; the layout only puts them in order. Hence arms that
differ in `layout` and `second` alone have the same originals, T tokens each, and as many asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import count, islice
from typing import Literal, NamedTuple

import numpy as np

from braidlm.arch.paraphrase import ParaphraseSource, Second
from braidlm.data.interleave import Interleave
from braidlm.data.paraphrase_texts import Span, Texts
from braidlm.data.seeding import TRAIN, generator

EDGES = 2
"""Tokens between two documents: eos and bos."""
_KEPT = 4096
_GOLDEN = (5**0.5 - 1) / 2
"""Neighbours that step by it stand far from each other, and all places are used alike."""


class Text(NamedTuple):
    """One text of a window, of one or more spans without a separator between them."""

    role: Literal["original", "second", "other"]
    spans: tuple[Span, ...]

    @property
    def length(self) -> int:
        """Its tokens."""
        return sum(span.length for span in self.spans)

    def head(self, n_tokens: int) -> Text:
        """Return its first tokens, at most so many."""
        spans = []
        for span in self.spans:
            if n_tokens > 0:
                spans.append(span.head(n_tokens))
                n_tokens -= span.length
        return Text(self.role, tuple(spans))


class Window(NamedTuple):
    """What stands in a window."""

    texts: tuple[Text, ...]
    """From left to right."""
    asked_text: int | None
    """Place among the texts of the one that stands second; None: the window is plain."""
    n_asked: int
    """Tokens that are learnt with loss = "second": as the shortest of all second texts has."""
    is_separate: bool
    """Whether each text is a document by itself."""


class _Epoch(NamedTuple):
    order: np.ndarray
    """(n,) texts in the order of their windows."""
    others: np.ndarray
    """(n,) texts in the order in which they fill windows."""
    places: np.ndarray
    """(n,) in 0 .. 1: where the part of a text's paraphrase begins."""


class Windows:
    """The windows of a source, each a pure function of its number.

    An epoch has one window for each text, in an order of its own. Of several paraphrases of a text
    each epoch takes the next.

    Args:
        texts: of the train half.
        kept: (n,) numbers of the texts that are used, at least two and more than gap_documents.
        source: the declaration.
        share: tokens at most of an original, of a second text and of a gap's text.
        n_separator: tokens between two texts.
        seed: of every order.
    """

    def __init__(
        self,
        texts: Texts,
        kept: np.ndarray,
        source: ParaphraseSource,
        share: int,
        n_separator: int,
        seed: int,
    ):
        self._texts, self._kept, self._source = texts, kept, source
        self._share, self._n_separator, self._seed = share, n_separator, seed
        first = generator(seed, TRAIN, source.name, "paraphrase").integers(2**31, size=len(texts))
        self._first_paraphrase = first.tolist()
        shares = (source.fraction, round(1 - source.fraction, 12))
        self._interleave = Interleave(shares)
        self._epoch = lru_cache(maxsize=2)(self._new_epoch)
        # Those of the rows since the last look at the counts, which are asked for again.
        self.window = lru_cache(maxsize=_KEPT)(self._window)

    @property
    def n_per_epoch(self) -> int:
        """Windows of an epoch."""
        return len(self._kept)

    def _window(self, number: int) -> Window:
        """Return window 0, 1, 2, ..."""
        epoch, place = divmod(number, len(self._kept))
        text = int(self._epoch(epoch).order[place])
        original = Text("original", (self._texts.text(text).head(self._share),))
        seconds = self._seconds(epoch, place, text)
        n_asked = min(sum(t.length for t in second) for second in seconds.values())
        n_asked = min(n_asked, original.length)
        others = self._others(epoch, place, text, seconds["unrelated"])
        gap = self._gap(others)
        is_plain = self._interleave.locate(number)[0] == 1
        layout = "plain" if is_plain else self._source.layout
        second, asked = seconds[self._source.second], None
        match layout:
            case "after":
                texts, asked = [original, *second, *gap], 1
            case "before":
                texts, asked = [*second, original, *gap], len(second)
            case "far":
                texts, asked = [original, *gap, *second], 1 + len(gap)
            case "plain" | "separate":
                texts = [original, *gap]
        between = EDGES if layout == "separate" else self._n_separator
        used = 1 + sum(t.length + between for t in texts)
        texts += self._fill(others, self._source.length - used, between)
        return Window(tuple(texts), asked, n_asked, layout == "separate")

    def _new_epoch(self, epoch: int) -> _Epoch:
        rng = generator(self._seed, TRAIN, self._source.name, epoch)
        order, others = rng.permutation(self._kept), rng.permutation(self._kept)
        return _Epoch(order, others, rng.random(len(order)))

    # what stands beside the original

    def _seconds(self, epoch: int, place: int, text: int) -> dict[Second, list[Text]]:
        """Return all second texts that any arm shows: what is asked must not depend on the arm."""
        pair = self._pair(epoch, text)
        original = self._texts.text(text).head(self._share)
        paraphrase = self._texts.paraphrase(pair).head(self._share)
        at = float(self._epoch(epoch).places[place])
        unrelated = self._fill(self._unrelated(epoch, place), paraphrase.length, self._n_separator)
        return {
            "paraphrase": [Text("second", (paraphrase,))],
            "partial": [Text("second", self._part(original, paraphrase, at)).head(self._share)],
            "repeat": [Text("second", (original,))],
            "unrelated": unrelated,
        }

    def _pair(self, epoch: int, text: int) -> int:
        """Return the pair whose paraphrase of a text an epoch shows."""
        pairs = self._texts.pairs[text]
        return pairs[(self._first_paraphrase[text] + epoch) % len(pairs)]

    def _unrelated(self, epoch: int, place: int) -> Iterator[Text]:
        """Yield the texts, or their paraphrases, of the windows half an epoch away."""
        order = self._epoch(epoch).order
        for step in count(len(order) // 2):
            text = int(order[(place + step) % len(order)])
            if text == order[place]:
                continue
            if self._source.unrelated == "text":
                span = self._texts.text(text)
            else:
                span = self._texts.paraphrase(self._pair(epoch, text))
            yield Text("second", (span,))

    def _part(self, original: Span, paraphrase: Span, at: float) -> tuple[Span, ...]:
        """Return a run of the paraphrase's units, and of the original's those beside it."""
        if self._source.part == 1:
            return (paraphrase,)
        ends = [0, *self._texts.ends(paraphrase)]
        n = len(ends) - 1
        n_taken = min(max(1, round(self._source.part * n)), max(1, n - 1))
        first = round(at * (n - n_taken))
        run = _between(paraphrase, ends[first], ends[first + n_taken])
        if self._source.rest == "left_out":
            return (run,)
        around = [0, *self._texts.ends(original)]
        stop = around[round(first / n * (len(around) - 1))]
        start = around[round((first + n_taken) / n * (len(around) - 1))]
        parts = _between(original, 0, stop), run, _between(original, start, original.length)
        return tuple(part for part in parts if part.length)

    # the rest of the window

    def _others(self, epoch: int, place: int, text: int, unrelated: list[Text]) -> Iterator[Text]:
        """Yield other texts without end, each once before any comes again.

        None is what the unrelated text is made of, unless there are too few: in no arm, so that
        this is the only text that a window of that arm has more than the others.
        """
        others, left_out = self._epoch(epoch).others, {text}
        more = {self._texts.number[span.pair] for t in unrelated for span in t.spans}
        if len(others) - len(left_out | more) >= max(1, self._source.gap_documents):
            left_out |= more
        start = int(place * _GOLDEN % 1 * len(others))
        for step in count(start):
            if (other := int(others[step % len(others)])) not in left_out:
                yield Text("other", (self._texts.text(other),))

    def _gap(self, others: Iterator[Text]) -> list[Text]:
        if n := self._source.gap_documents:
            return [text.head(self._share) for text in islice(others, n)]
        room = self._source.gap_tokens - 2 * self._n_separator
        return self._fill(others, room, self._n_separator)

    def _fill(self, texts: Iterator[Text], room: int, between: int) -> list[Text]:
        """Return texts, parted by so many tokens, that leave no room for one more token of text."""
        found = []
        while room > 0:
            found.append(next(texts).head(room))
            room -= found[-1].length + between
        return found


def _between(span: Span, start: int, stop: int) -> Span:
    """Return tokens start .. stop - 1 of a span."""
    return Span(span.pair, span.start + start, span.start + stop)

"""One mode at several contexts and batch sizes, contenders side by side."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from braidlm.bench import point, predicted
from braidlm.bench.ceiling import Ceiling, Probe
from braidlm.bench.clock import Rounds, seconds_of, synchronize
from braidlm.bench.contender import Answerer, Call, Library, NoPeerError, Setting, Trainee
from braidlm.bench.memory import Gauge, available_bytes, meter_of
from braidlm.bench.plan import FEWEST_REPEATS
from braidlm.bench.point import Place
from braidlm.bench.spread import spread

TOO_LARGE = re.compile(r"allocate memory|out of memory|can't allocate", re.IGNORECASE)
OURS = "braid"
Told = Callable[[dict[str, Any]], None]
"""Called with each row as it is known."""


class Mode:
    """A mode's contenders while they are there, and the rows that they gave.

    Args:
        name: of `plan.MODES`.
        setting: what every contender is given.
        libraries: ours first.
        probe: times the device itself in the mode's precision.
        told: called with each row.
    """

    def __init__(
        self,
        name: str,
        setting: Setting,
        libraries: Sequence[Library],
        probe: Probe,
        told: Told,
    ) -> None:
        self.name, self.setting, self.libraries = name, setting, libraries
        self.probe, self.told = probe, told
        self.ceilings: list[Ceiling] = []
        """What the device reached around the rounds of each point."""
        self.rows: list[dict[str, Any]] = []
        self.about: dict[str, dict[str, Any]] = {}
        """Of each contender: what ran; or `why_not`."""
        self.contenders: dict[str, Trainee | Answerer] = {}
        self.faults: list[str] = []
        """Of ours: bytes or parameters that are not those that were declared."""
        self._gauges: dict[str, Gauge] = {}

    def run(self) -> None:
        """Measure all points; what is there stays when an exception ends it."""
        plan = self.setting.plan
        places = [Place(self.name, n, b) for n in plan.contexts for b in plan.batch_sizes]
        try:
            for place in places:
                needed, free = self._foretold(place)["peak_bytes"], self._free()
                if free is not None and needed > free:
                    why = f"does not fit: needs at least {needed:,} bytes, {free:,} are free"
                    self._tell(point.absent(place, OURS, why))
                    continue
                if not self._gauges:
                    self._open()
                self._measure(place)
        finally:
            for contender in self.contenders.values():
                self.faults += contender.faults
                contender.close()
            self.contenders.clear()
            self._tidy()

    def _free(self) -> int | None:
        """Return the memory that ours may take: what is left, and what it holds already."""
        free = available_bytes(self.setting.device)
        held = self._gauges[OURS].held if OURS in self._gauges else 0
        return None if free is None else free + held

    def _open(self) -> None:
        """Build every contender; of those that are not there the reason is kept."""
        for library in self.libraries:
            gauge = Gauge(meter_of(self.setting.device))
            self._gauges.setdefault(library.name, gauge)
            opened = library.trainee if self.name == "train" else library.answerer
            try:
                library.prepare(self.setting)
                contender = gauge.run(lambda opened=opened: opened(self.setting))
            except NoPeerError as reason:
                self.about[library.name] = {"why_not": f"no peer: {reason}"}
                continue
            except Exception as error:
                if library is self.libraries[0]:
                    raise
                self.about[library.name] = {"why_not": _failure(error)}
                continue
            self.contenders[contender.name] = contender
            self.about[contender.name] = contender.about
            self._gauges[contender.name] = gauge

    def _measure(self, place: Place) -> None:
        """Warm all contenders up, run the rounds, and tell a row for each."""
        calls: dict[str, Callable[[], Any]] = {}
        peaks: dict[str, list[int]] = {}
        for name in list(self.contenders):
            why_not = self._warmed(place, name, calls, peaks)
            if why_not is not None:
                calls.pop(name, None)
                self._tidy()
                self._tell(point.absent(place, name, why_not))
        repeats = self.setting.plan.repeats
        rounds = Rounds(calls, repeats)
        # What the device gives may change while others use it: half before and half behind.
        self.ceilings.append(self.probe.measure((repeats + 1) // 2))
        try:
            rounds.run()
            self.ceilings[-1] += self.probe.measure(repeats // 2)
        except KeyboardInterrupt:
            self._tell_all(place, rounds, peaks)
            raise
        except Exception as error:
            why_not = _too_large(error)
            if why_not is None:
                raise
            for name in calls:
                self._tell(point.absent(place, name, why_not))
        else:
            self._tell_all(place, rounds, peaks)
            return
        self._tidy()

    def _tell_all(self, place: Place, rounds: Rounds[Any], peaks: dict[str, list[int]]) -> None:
        """Tell a row for each contender that ran often enough to have quartiles."""
        for name, samples in rounds.samples.items():
            if len(samples) >= FEWEST_REPEATS:
                row = self._row(place, name, samples, peaks[name])
                self._tell(row | _against(rounds.samples, name))

    def _warmed(
        self, place: Place, name: str, calls: dict[str, Any], peaks: dict[str, list[int]]
    ) -> str | None:
        """Make a contender's call and run it a few times; return why it cannot run."""
        gauge = self._gauges[name]
        # What a recording holds is not counted again when it is replayed: its first call tells.
        is_recorded = self.contenders[name].about.get("recorded") == "passes"
        try:
            calls[name] = self._call(place, self.contenders[name])
            for index in range(self.setting.plan.warmups):
                if (
                    index == 1 and not is_recorded
                ):  # what the first call builds once is no peak of the others
                    gauge.peaks.clear()
                gauge.run(calls[name])
        except Exception as error:
            why_not = _too_large(error)
            if why_not is None and name == OURS:
                raise
            return why_not or _failure(error)
        peaks[name] = list(gauge.peaks)
        return None

    def _call(self, place: Place, contender: Any) -> Callable[[], Any]:
        """Return what gives one sample: seconds, and of decoding (TTFT, TPOT)."""
        plan, device = self.setting.plan, self.setting.device
        n_tokens = place.context + (self.name == "train")
        tokens = self.tokens(place.batch, n_tokens)
        if self.name == "train":
            return _timed(contender.update(tokens), device)
        tokens = tokens.to(device)
        if self.name == "prefill":
            return _timed(contender.prefill(tokens), device)
        stamps = contender.generate(tokens, plan.new_tokens)

        def decode() -> tuple[float, float]:
            synchronize(device)
            began = time.perf_counter()
            moments = stamps()
            return moments[0] - began, (moments[-1] - moments[0]) / (len(moments) - 1)

        return decode

    def tokens(self, n_rows: int, n_tokens: int) -> Tensor:
        """Return random tokens (n_rows, n_tokens) on the host, a function of the seed."""
        draws = torch.Generator().manual_seed(self.setting.plan.seed)
        return torch.randint(
            self.setting.recipe.spec.vocab_size, (n_rows, n_tokens), generator=draws
        )

    def _row(self, place: Place, name: str, samples: list[Any], peaks: list[int]) -> dict[str, Any]:
        foretold, kept = self._foretold(place), {"allocated": self.contenders[name].allocated}
        if self.name != "decode":
            n_tokens = place.batch * place.context
            row = point.measured(place, name, samples, n_tokens, foretold, self.ceilings[-1], peaks)
            return row | kept
        first, each = ([sample[i] for sample in samples] for i in (0, 1))
        row = point.measured(place, name, each, place.batch, foretold, self.ceilings[-1], peaks)
        return row | kept | point.seconds("ttft", first)

    def _foretold(self, place: Place) -> dict[str, Any]:
        spec, setting = self.setting.recipe.spec, self.setting
        if self.name == "train":
            return predicted.training(spec, place.context, place.batch)
        answered = (spec, place.context, place.batch, setting.answering_dtype)
        if self.name == "prefill":
            return predicted.prefilling(*answered)
        return predicted.decoding(*answered, setting.plan.new_tokens)

    def _tell(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.told(row)

    def _tidy(self) -> None:
        """Give back what a call that failed, or a model that is gone, has left."""
        gc.collect()
        if self.setting.device.type == "cuda":
            torch.cuda.empty_cache()


def _timed(call: Call, device: torch.device) -> Callable[[], float]:
    return lambda: seconds_of(call, device)


def _against(samples: dict[str, list[Any]], name: str) -> dict[str, Any]:
    """Return how many times as fast ours was in the same round; of an interrupted one nothing."""
    if name == OURS or OURS not in samples:
        return {}
    pairs = zip(samples[OURS], samples[name], strict=False)
    each = [_seconds(theirs) / _seconds(ours) for ours, theirs in pairs]
    found = spread(lambda ratio: ratio, each)
    return {"ours_over_it": found.value, "ours_over_it_low": found.low,
            "ours_over_it_high": found.high, "ours_over_it_stderr": found.stderr}  # fmt: skip


def _seconds(sample: Any) -> float:
    """Of decoding the time of a token counts."""
    return sample[1] if isinstance(sample, tuple) else sample


def _failure(error: Exception) -> str:
    return f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _too_large(error: Exception) -> str | None:
    """Return a line if memory was missing."""
    is_large = isinstance(error, torch.OutOfMemoryError | MemoryError)
    if not is_large and not TOO_LARGE.search(str(error)):
        return None
    first = str(error).strip().partition("\n")[0].partition(". GPU")[0]
    return f"does not fit: {first or type(error).__name__}"


def lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each row that could not be measured."""
    for row in rows:
        if row["why_not"] is not None:
            place = Place(row["mode"], row["context"], row["batch"])
            yield f"{place}, {row['subject']}: {row['why_not']}"

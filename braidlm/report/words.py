"""The summary: sentences computed from the numbers, plain about what is within error."""

from __future__ import annotations

from typing import Any

from braidlm.report.stats import Difference, Estimate, difference
from braidlm.report.units import decimals, fixed, listing, size

_MATCHABLE = (
    ("training_flops", "training FLOPs"),
    ("training_tokens", "training tokens"),
    ("n_params", "parameters"),
    ("cache_bytes", "cache bytes"),
)
MAX_NAMES = 4


def summary(data: dict[str, Any]) -> list[str]:
    """Sentences on what was compared, which arms lead, and what their caches cost."""
    arms = data["arms"]
    sentences = [_scope(data), *_matching(arms, data["matched"])]
    leading = _leading(data)
    for column in leading:
        sentences += _ranking(arms, column)
    if not any(arm["metrics"][c["key"]] for arm in arms for c in data["columns"]):
        sentences.append("No result has been measured yet.")
    return [
        *sentences,
        *_cache(arms, data["context"]),
        *_cheapest_at_best_recall(arms, leading),
    ]


def notes(data: dict[str, Any]) -> list[str]:
    """Sentences on what the errors mean."""
    return _errors(data["arms"], _leading(data))


def _leading(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The columns that the summary speaks of, recall first."""
    found = [c for c in data["columns"] if c["metric"] in ("accuracy", "bits_per_byte")]
    return sorted(found, key=lambda column: column["metric"] != "accuracy")


def _scope(data: dict[str, Any]) -> str:
    arms, seeds = data["arms"], data["seeds"]
    counts = sorted({arm["n_runs"] for arm in arms})
    each = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    noun = "seed" if counts[-1] == 1 else "seeds"
    named = f" ({listing([str(seed) for seed in seeds])})" if 0 < len(seeds) <= 8 else ""
    who = f"One arm, {arms[0]['label']}, has" if len(arms) == 1 else f"{len(arms)} arms have"
    return f"{who} {each} {noun}{' each' if len(arms) > 1 else ''}{named}{_unended(data)}."


def _unended(data: dict[str, Any]) -> str:
    lost = sum(row["state"] != "done" for row in data["problems"])
    return f"; {lost} {'run' if lost == 1 else 'runs'} did not end" if lost else ""


def _matching(arms: list[dict[str, Any]], declared: list[str]) -> list[str]:
    """What the study says it holds equal, and how equal it is by the arms' own figures."""
    if len(arms) < 2:
        return []
    out = []
    if declared:
        out.append(f"Declared equal: {listing([declared_words(word) for word in declared])}.")
    spreads = [(title, _spread([arm[key] for arm in arms])) for key, title in _MATCHABLE]
    same = [title for title, ratio in spreads if ratio is not None and ratio <= 1.0005]
    differ = [f"{title} by {_ratio(ratio)}" for title, ratio in spreads if ratio and ratio > 1.0005]
    parts = [f"the same {listing(same)}"] if same else []
    parts += [f"{listing(differ)} from the smallest to the largest"] if differ else []
    if parts:
        verb = "have" if same else "differ in"
        text = " and differ in ".join(parts)
        out.append(f"By their own figures the arms {verb} {text}.")
    return out


def declared_words(word: str) -> str:
    """What a study says it matches, as a reader writes it."""
    return word.replace("_", " ").replace("flops", "FLOPs")


def _spread(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    if min(known) <= 0:
        return 1.0 if max(known) <= 0 else None
    return max(known) / min(known)


def _ratio(ratio: float) -> str:
    return f"{100 * (ratio - 1):.1f} %" if ratio < 2 else f"a factor of {ratio:.3g}"


def _ranking(arms: list[dict[str, Any]], column: dict[str, Any]) -> list[str]:
    ranked = ranking(arms, column)
    if not ranked:
        return []
    is_recall = column["metric"] == "accuracy"
    what = f"recall ({column['title']})" if is_recall else column["title"].lower()
    (best, top), rest = ranked[0], ranked[1:]
    value = fixed(top.mean, decimals(top.stderr))
    if not rest:
        return [f"{best['label']} is the only arm with {what}: {value}."]
    tied = [arm["label"] for arm, found in rest if difference(top, found).is_within_error]
    superlative = "highest" if column["better"] == "higher" else "lowest"
    lead = f"{what[0].upper()}{what[1:]} is {superlative} for {best['label']}, at {value}"
    if len(tied) == len(rest):
        return [f"{lead}, but every other arm is within error of it: no winner."]
    if tied:
        return [f"{lead}; {_names(tied)} {'is' if len(tied) == 1 else 'are'} within error of it."]
    return [f"{lead}, ahead of {rest[0][0]['label']} by {_gap(difference(top, rest[0][1]))}."]


def ranking(
    arms: list[dict[str, Any]], column: dict[str, Any]
) -> list[tuple[dict[str, Any], Estimate]]:
    """Arms that have the metric, best first."""
    found = [(arm, Estimate(**entry)) for arm in arms if (entry := arm["metrics"][column["key"]])]
    return sorted(found, key=lambda pair: pair[1].mean, reverse=column["better"] == "higher")


def _gap(gap: Difference) -> str:
    places = decimals(gap.half_width)
    return f"{fixed(abs(gap.value), places)} ± {fixed(gap.half_width, places)} (95 %)"


def _names(labels: list[str]) -> str:
    more = len(labels) - MAX_NAMES
    return listing([*labels[:MAX_NAMES], f"{more} more"]) if more > 0 else listing(labels)


def _cache(arms: list[dict[str, Any]], context: int) -> list[str]:
    known = sorted((arm for arm in arms if arm["cache_bytes"] is not None), key=_bytes)
    if not known:
        return []
    small, large = known[0], known[-1]
    where = f"At a context of {context:,} tokens".replace(",", "\u202f")
    if small["cache_bytes"] == large["cache_bytes"]:
        return [f"{where} each sequence keeps {size(small['cache_bytes'])} of cache in every arm."]
    times = ""
    if small["cache_bytes"]:
        times = f", {large['cache_bytes'] / small['cache_bytes']:.3g} times as much"
    return [
        f"{where} a sequence keeps from {size(small['cache_bytes'])} ({small['label']}) to "
        f"{size(large['cache_bytes'])} ({large['label']}) of cache{times}."
    ]


def _bytes(arm: dict[str, Any]) -> float:
    return arm["cache_bytes"]


def _cheapest_at_best_recall(
    arms: list[dict[str, Any]], columns: list[dict[str, Any]]
) -> list[str]:
    """The smallest cache among the arms that cannot be told from the best recall."""
    column = next((c for c in columns if c["metric"] == "accuracy"), None)
    ranked = ranking(arms, column) if column else []
    ranked = [(arm, found) for arm, found in ranked if arm["cache_bytes"] is not None]
    if len(ranked) < 2:
        return []
    best, top = ranked[0]
    level = [arm for arm, found in ranked if arm is best or difference(top, found).is_within_error]
    smallest = min(level, key=_bytes)
    if smallest is best or smallest["cache_bytes"] == best["cache_bytes"]:
        return []
    return [
        f"Of the arms within error of the best recall, {smallest['label']} keeps the smallest "
        f"cache, {size(smallest['cache_bytes'])}."
    ]


def _errors(arms: list[dict[str, Any]], columns: list[dict[str, Any]]) -> list[str]:
    found = [arm["metrics"][c["key"]] for arm in arms for c in columns if arm["metrics"][c["key"]]]
    if not found:
        return []
    single = [entry for entry in found if entry["n_seeds"] == 1]
    if len(single) == len(found):
        return ["1 seed: item error only, so the luck of training is not measured."]
    tail = " Arms with 1 seed carry the item error only." if single else ""
    return [
        "“Within error”: the 95 % interval of the difference (Welch's t over seeds, plus the error "
        "over test items) holds zero; not corrected for the number of arms." + tail
    ]

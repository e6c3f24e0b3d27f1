"""The summary: sentences computed from the numbers, plain about what is within error."""

from __future__ import annotations

from typing import Any

from braidlm.report.stats import Estimate
from braidlm.report.units import decimals, fixed, listing, size

_MATCHABLE = (
    ("training_flops", "training FLOPs"),
    ("training_tokens", "training tokens"),
    ("n_params", "parameters"),
    ("cache_bytes", "cache bytes"),
)
MATCHED_WITHIN = 1.0102
"""Largest ratio of two arms' figures that still counts as the same (1 % of the larger)."""
MAX_NAMES = 4
"""Arms that a sentence names; more are counted."""


def summary(data: dict[str, Any]) -> list[str]:
    """Sentences on what was compared, which arms lead, and what their caches cost."""
    arms = data["arms"]
    sentences = [_scope(data), *_matching(arms, data["matched"])]
    for column in _leading(data):
        sentences += _ranking(data, column)
    if not any(arm["metrics"][c["key"]] for arm in arms for c in data["columns"]):
        beside = " Speed has." if data["speed"] else ""
        sentences.append(f"No task has been measured yet.{beside}")
    return [
        *sentences,
        *_cache(arms, data["context"]),
        *_cheapest_at_best_recall(data),
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
    """What the arms have in common by their own figures, and what the study says beyond that."""
    if len(arms) < 2:
        return []
    spreads = [(title, _spread([arm[key] for arm in arms])) for key, title in _MATCHABLE]
    same = [title for title, ratio in spreads if ratio is not None and ratio <= MATCHED_WITHIN]
    differ = [f"{t} by {_ratio(r)}" for t, r in spreads if r is not None and r > MATCHED_WITHIN]
    said = [word for word in map(declared_words, declared) if word not in same]
    out = [f"The study says that they are equal in {listing(said)}."] if said else []
    parts = [f"have the same {listing(same)} (within 1 %)"] if same else []
    parts += [f"differ in {listing(differ)}"] if differ else []
    if parts:
        out.append(f"By their own figures the arms {' and '.join(parts)}.")
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


def _ranking(data: dict[str, Any], column: dict[str, Any]) -> list[str]:
    lead = data["leads"].get(column["key"])
    if lead is None:
        return []
    arms = {arm["name"]: arm for arm in data["arms"]}
    what = f"recall ({column['title']})" if _is_recall(column) else column["title"].lower()
    best, others = arms[lead["best"]], lead["others"]
    top = Estimate(**best["metrics"][column["key"]])
    value = fixed(top.mean, decimals(top.stderr))
    chance = data["chance"].get(column["task"]) if _is_recall(column) else None
    value += f" (chance {fixed(chance, 3)})" if chance is not None else ""
    if len(arms) == 1:
        return [f"{what[0].upper()}{what[1:]} is {value}."]
    if not others:
        return [f"{best['label']} is the only arm with {what}: {value}."]
    if chance is not None and top.mean <= chance:
        return [
            f"No arm has {what} above chance ({fixed(chance, 3)}): at most {fixed(top.mean, 3)}."
        ]
    level = [arms[name]["label"] for name, gap in others.items() if gap["is_within_error"]]
    superlative = "highest" if column["better"] == "higher" else "lowest"
    start = f"{what[0].upper()}{what[1:]} is {superlative} for {best['label']}, at {value}"
    if len(level) == len(others):
        return [f"{start}, but every other arm is within error of it: no winner."]
    if level:
        return [
            f"{start}; {_names(level)} {'is' if len(level) == 1 else 'are'} within error of it."
        ]
    second = next(iter(others))
    one_seed = 1 in (top.n_seeds, arms[second]["metrics"][column["key"]]["n_seeds"])
    gap = _gap(others[second]) + (", items only)" if one_seed else ")")
    return [f"{start}, ahead of {arms[second]['label']} by {gap}."]


def _is_recall(column: dict[str, Any]) -> bool:
    return column["metric"] == "accuracy"


def _gap(gap: dict[str, Any]) -> str:
    value, error = abs(gap["value"]), gap["half_width"]
    places = decimals(error if error > 1e-6 * value else None)  # below: the noise of arithmetic
    return f"{fixed(value, places)} ± {fixed(error, places)} (95 %"


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
        every = " in every arm" if len(arms) > 1 else ""
        return [f"{where} a sequence keeps {size(small['cache_bytes'])} of cache{every}."]
    times = ""
    if small["cache_bytes"]:
        times = f", {large['cache_bytes'] / small['cache_bytes']:.3g} times as much"
    return [
        f"{where} a sequence keeps from {size(small['cache_bytes'])} ({small['label']}) to "
        f"{size(large['cache_bytes'])} ({large['label']}) of cache{times}."
    ]


def _bytes(arm: dict[str, Any]) -> float:
    return arm["cache_bytes"]


def _cheapest_at_best_recall(data: dict[str, Any]) -> list[str]:
    """The smallest cache among the arms that cannot be told from the best recall."""
    column = next(filter(_is_recall, data["columns"]), None)
    lead = data["leads"].get(column["key"]) if column else None
    if column is None or lead is None:
        return []
    level = {lead["best"], *(n for n, gap in lead["others"].items() if gap["is_within_error"])}
    known = [a for a in data["arms"] if a["name"] in level and a["cache_bytes"] is not None]
    smallest = min(known, key=_bytes, default=None)
    best = next((arm for arm in known if arm["name"] == lead["best"]), None)
    if smallest is None or best is None or smallest["cache_bytes"] == best["cache_bytes"]:
        return []
    chance = data["chance"].get(column["task"])
    if chance is not None and best["metrics"][column["key"]]["mean"] <= chance:
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
        "over test items, which are paired one by one where both arms answered the same ones) "
        "holds zero; not corrected for the number of arms." + tail
    ]

"""Two arms item by item: the same questions, so that what makes them hard cancels out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from braidlm.errors import InputError
from braidlm.items import read_items
from braidlm.report.stats import Difference, mean, number, seed_stderr, t95, welch_degrees


@dataclass(frozen=True)
class Scores:
    """One metric of one run: what each item adds to it. The mean of group means is the metric."""

    values: dict[str, float]
    """Item -> its score; for a ratio of sums the item's linear part of it."""
    groups: dict[str, str]
    """Item -> its kind, such as the number of pairs; kinds count the same."""
    clusters: dict[str, str] = field(default_factory=dict)
    """Item -> what was drawn independently, such as its document; empty: the items were."""


@dataclass(frozen=True)
class Paired:
    """How far arm a lies above arm b on the items that both answered."""

    difference: Difference
    """Mean difference and half of its 95 % interval."""
    item_stderr: float
    """Over items, of the differences of seed means."""
    seed_stderrs: tuple[float | None, float | None]
    """Over seeds, of each arm's mean; None with one seed."""
    degrees: float
    """Degrees of freedom of the interval's t."""
    n_items: int
    wins: int
    """Items on which a scores higher."""
    ties: int
    losses: int


def scores(folder: Path, result: Mapping[str, Any], metric: str) -> Scores:
    """Return what each item adds to a metric of a result that lies in `folder`.

    For a ratio sum(y) / sum(x) = r an item counts r + n (y - r x) / sum(x): these have the mean r,
    and their standard error is the delta method's.

    Raises:
        InputError: see `read_items`; or the metric is not kept by item, or a score is not finite.
    """
    columns = (result.get("items") or {}).get("columns") or {}
    column = columns.get(metric)
    is_old = "items" not in result and "by_document" in (result.get("tables") or {})
    if is_old and metric == "bits_per_byte":
        rows, column = _documents(result), {"value": "bits", "over": "n_bytes"}
    else:
        rows = read_items(folder, result)
    if column is None:
        raise InputError(f"{result.get('kind')}-{result.get('name')}: no '{metric}' by item")
    y = _numbers(rows, column["value"])
    groups = {str(row["id"]): str(row.get("group", "")) for row in rows}
    if len(groups) < len(rows):
        raise InputError(f"{result.get('kind')}-{result.get('name')}: two items have one name")
    if column.get("over") is not None:
        x = _numbers(rows, column["over"])
        total, n = math.fsum(x), len(x)
        r = math.fsum(y) / total
        y = [r + n * (yi - r * xi) / total for yi, xi in zip(y, x, strict=True)]
    clusters = {str(row["id"]): str(row["cluster"]) for row in rows if "cluster" in row}
    return Scores(dict(zip(groups, y, strict=True)), groups, clusters)


def _numbers(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    found = [number(row.get(key)) for row in rows]
    if None in found:
        row = rows[found.index(None)]
        raise InputError(f"item '{row['id']}': {key} = {row.get(key)!r} is no finite number")
    return found  # type: ignore[return-value]


def _documents(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a result of the first version, which kept documents in a table of its own."""
    out = []
    for row in result["tables"]["by_document"]:
        nll, n_tokens = number(row.get("nll")), number(row.get("n_tokens"))
        if nll is None or n_tokens is None:
            raise InputError(f"document '{row.get('document')}': nll is no finite number")
        bits = nll * n_tokens / math.log(2)
        out.append({"id": row.get("document"), "n_bytes": row.get("n_bytes"), "bits": bits})
    return out


def pair(a: Sequence[Scores], b: Sequence[Scores]) -> Paired | None:
    """Compare two arms, each given by the scores of its seeds; None where they cannot be paired.

    The variance of the difference is clustered by item (by document where several items are about
    one) and by seed: that of the items' mean differences, plus that of each arm's seed means, minus
    what both count (a seed's luck on a single item). It is never below either part. An arm with one
    seed adds no variance of seeds.

    Source: Cameron, Gelbach and Miller 2011 (J. Bus. Econ. Stat. 29:238), two-way clustering.
    """
    groups = a[0].groups if a else {}
    clusters = a[0].clusters if a else {}
    if not b or any((s.groups, s.clusters) != (groups, clusters) for s in (*a, *b)):
        return None
    weights = _weights(groups)
    if weights is None or len(set(clusters.values())) == 1:
        return None
    means = [{i: mean([s.values[i] for s in arm]) for i in groups} for arm in (a, b)]
    gaps = {i: means[0][i] - means[1][i] for i in groups}
    items = _variance(gaps, a[0], weights)
    seeds = [seed_stderr([_total(s.values, weights) for s in arm]) for arm in (a, b)]
    drawn = len(set(clusters.values())) - 1 if clusters else 0
    parts = [(items, drawn or len(groups) - len(set(groups.values())))]
    parts += [(e**2, len(arm) - 1) for e, arm in zip(seeds, (a, b), strict=True) if e is not None]
    both = sum(_shared(arm, weights) for arm in (a, b))
    of_seeds = sum(variance for variance, _ in parts[1:])
    variance = max(items + of_seeds - both, items, of_seeds)
    degrees = welch_degrees(parts)
    value = _total(gaps, weights)
    return Paired(
        difference=Difference(value, t95(degrees) * math.sqrt(variance)),
        item_stderr=math.sqrt(items),
        seed_stderrs=(seeds[0], seeds[1]),
        degrees=degrees,
        n_items=len(groups),
        wins=sum(gap > 0 for gap in gaps.values()),
        ties=sum(gap == 0 for gap in gaps.values()),
        losses=sum(gap < 0 for gap in gaps.values()),
    )


def _weights(groups: Mapping[str, str]) -> dict[str, float] | None:
    """The share of each item in the metric; None where a group is too small for an error."""
    sizes: dict[str, int] = {}
    for group in groups.values():
        sizes[group] = sizes.get(group, 0) + 1
    if min(sizes.values(), default=0) < 2:
        return None
    return {i: 1 / (len(sizes) * sizes[group]) for i, group in groups.items()}


def _total(values: Mapping[str, float], weights: Mapping[str, float]) -> float:
    return math.fsum(weights[i] * value for i, value in values.items())


def _centred(values: Mapping[str, float], groups: Mapping[str, str]) -> dict[str, float]:
    by_group: dict[str, list[float]] = {}
    for i, group in groups.items():
        by_group.setdefault(group, []).append(values[i])
    centres = {group: mean(found) for group, found in by_group.items()}
    return {i: values[i] - centres[group] for i, group in groups.items()}


def _variance(values: Mapping[str, float], items: Scores, weights: Mapping[str, float]) -> float:
    """Variance of the mean of group means over items, with n - 1 in each group's.

    Over clusters, where there are some, which may reach over groups: n / (n - 1) sum_c u_c^2 with
    u_c = sum over the items of c of weight (value - mean of its group).
    """
    groups, clusters = items.groups, items.clusters
    centred = _centred(values, groups)
    if clusters:
        sums: dict[str, float] = {}
        for i, gap in centred.items():
            sums[clusters[i]] = sums.get(clusters[i], 0.0) + weights[i] * gap
        return len(sums) / (len(sums) - 1) * math.fsum(u**2 for u in sums.values())
    sizes = {group: list(groups.values()).count(group) for group in set(groups.values())}
    return math.fsum(
        sizes[groups[i]] / (sizes[groups[i]] - 1) * (weights[i] * gap) ** 2
        for i, gap in centred.items()
    )


def _shared(arm: Sequence[Scores], weights: Mapping[str, float]) -> float:
    """The variance that an arm's items and its seeds both count; 0 with one seed."""
    if len(arm) < 2:
        return 0.0
    means = {i: mean([s.values[i] for s in arm]) for i in arm[0].groups}
    rest = [{i: s.values[i] - means[i] for i in means} for s in arm]
    found = math.fsum(_variance(values, arm[0], weights) for values in rest)
    return found / (len(arm) - 1) / len(arm)

"""Phonebook results over seeds: by length, by place in the book, by digit."""

from __future__ import annotations

from typing import Any

from braidlm.report.load import Arm
from braidlm.report.series import row_estimates
from braidlm.report.stats import as_dict

Rows = list[dict[str, Any]]

# table -> (numbers that name a row, measured columns with the names of their errors)
_TABLES = {
    "by_length": (("length",), (("exact", "exact_stderr"), ("digits", "digits_stderr"))),
    "by_depth": (("length", "start", "end"), (("exact", "exact_stderr"),)),
    "by_digit": (("digit",), (("right", "stderr"),)),
}


def lookups(arms: list[Arm], task: str) -> dict[str, dict[str, dict[str, Rows]]]:
    """The tables of one phonebook task.

    Returns:
        order -> table ("by_length", "by_depth", "by_digit") -> arm -> rows. A row holds what names
        it and for each measured column an estimate over seeds.
    """
    results = {arm.name: [r.results[task] for r in arm.runs if task in r.results] for arm in arms}
    every = [
        _rows(result, table) for found in results.values() for result in found for table in _TABLES
    ]
    orders = sorted({str(row.get("order")) for rows in every for row in rows}, reverse=True)
    return {
        order: {
            table: {
                arm: _table([_of_order(result, table, order) for result in found], table)
                for arm, found in results.items()
            }
            for table in _TABLES
        }
        for order in sorted(orders, reverse=True)  # standard first
    }


def _rows(result: dict[str, Any], table: str) -> Rows:
    return (result.get("tables") or {}).get(table) or []


def _of_order(result: dict[str, Any], table: str, order: str) -> dict[str, Any]:
    return {"tables": {table: [r for r in _rows(result, table) if str(r.get("order")) == order]}}


def _table(results: Rows, table: str) -> Rows:
    keys, columns = _TABLES[table]
    merged: dict[tuple[float, ...], dict[str, Any]] = {}
    for column, error in columns:
        for at, found in row_estimates(results, table, keys, column, error):
            row = merged.setdefault(at, dict(zip(keys, at, strict=True)))
            row[column] = as_dict(found)
    return [merged[at] for at in sorted(merged)]

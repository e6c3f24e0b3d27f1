"""The tables of a conversion: what is measured is shown, whatever else a file holds."""

import re
from pathlib import Path

from braidlm.report.conversions import conversions, section, tokens_of_stages
from braidlm.report.load import Arm
from braidlm.report.run import Run


def arm(**tables) -> Arm:
    results = {f"convert-{name}": {"kind": "convert", "tables": t} for name, t in tables.items()}
    return Arm("a", "Arm <b>", [Run(Path("x"), 3, {}, {}, {}, [], results)])


def shown(found: Arm) -> str:
    data = {"arms": [{"name": "a", "label": found.label}]}
    return section(data | {"conversions": {"a": conversions(found)}})


def cells(page: str) -> list[str]:
    """What the cells of the body say, head cells too."""
    body = page.partition("<tbody>")[2].partition("</tbody>")[0]
    found = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", body)
    return [re.sub(r"<[^>]+>", " ", cell).strip() for cell in found]


def test_a_stage_is_a_row_and_a_change_has_the_decimals_of_its_error():
    row = {"stage": "mixers", "task": "lm-x", "metric": "nll", "value": 2.34567, "stderr": 0.0123}
    other = row | {"task": "t", "metric": "m", "value": 0.5, "stderr": 0.1}
    row |= {"change": 0.5, "half_width": 0.071, "steps": 1200, "tokens": 34567, "loss": 0.25}
    teacher = row | {
        "stage": "teacher",
        "change": None,
        "steps": None,
        "tokens": None,
        "loss": None,
    }
    page = shown(arm(stages={"stages": [teacher, row, other]}))
    assert cells(page) == [
        *("teacher", "2.346 ± 0.012", "", "", "", ""),
        *("mixers", "2.346 ± 0.012 +0.500 ± 0.071", "0.50 ± 0.10", "1,200", "34,567", "0.2500"),
    ]
    assert "<small>nll</small>" in page
    assert "Arm &lt;b&gt;" in page


def test_layers_say_what_is_lost_without_them_and_which_stay():
    rows = [
        {"layer": 4, "task": "t", "metric": "m", "harm": 0.2, "stderr": 0.1, "rank": 1,
         "mean_rank": 1.5, "is_kept": True},
        {"layer": 4, "task": "u", "metric": "m", "harm": 0.3, "stderr": 0.1, "rank": 2,
         "mean_rank": 1.5, "is_kept": True},
        {"layer": 0, "task": "t", "metric": "m", "harm": -0.1, "stderr": 0.1, "rank": 2,
         "mean_rank": 1.5, "is_kept": False},
    ]  # fmt: skip
    assert cells(shown(arm(layers={"layers": rows}))) == [
        *("4", "+0.20 ± 0.10 rank 1", "+0.30 ± 0.10 rank 2", "1.50", "yes"),
        *("0", "−0.10 ± 0.10 rank 2", "", "1.50", ""),
    ]


def test_broken_rows_are_left_out_and_nothing_is_no_section():
    assert conversions(arm(stages={"stages": "none"})) == []
    assert "x" in shown(arm(stages={"stages": [3, {"stage": "x"}]}))
    assert section({"arms": [], "conversions": {}}) == ""


def test_the_tokens_of_a_conversion_are_those_of_all_its_stages():
    rows = [
        {"stage": stage, "task": task, "metric": "m", "value": 1.0, "tokens": n}
        for stage, n in (("teacher", None), ("mixers", 300), ("logits", 500), ("text", 70))
        for task in ("t", "u")
    ]
    assert tokens_of_stages(arm(stages={"stages": rows})) == 870
    assert tokens_of_stages(arm()) is None
    odd = [{"stage": ["x"], "tokens": "many"}, {"stage": "text", "tokens": 70}, {"tokens": None}]
    assert tokens_of_stages(arm(stages={"stages": odd})) == 70

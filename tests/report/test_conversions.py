"""The tables of a conversion: what is measured is shown, whatever else a file holds."""

from pathlib import Path

from braidlm.report.conversions import conversions, section
from braidlm.report.load import Arm
from braidlm.report.run import Run


def arm(**tables) -> Arm:
    results = {f"convert-{name}": {"kind": "convert", "tables": t} for name, t in tables.items()}
    return Arm("a", "Arm <b>", [Run(Path("x"), 3, {}, {}, {}, [], results)])


def shown(found: Arm) -> str:
    data = {"arms": [{"name": "a", "label": found.label}]}
    return section(data | {"conversions": {"a": conversions(found)}})


def test_a_change_has_its_sign_and_the_decimals_of_its_error():
    row = {"stage": "mixers", "task": "lm-x", "metric": "nll", "value": 2.34567, "stderr": 0.0123}
    row |= {"change": 0.5, "half_width": 0.071, "steps": 1200, "tokens": 34567, "loss": 0.25}
    page = shown(arm(stages={"stages": [row]}))
    cells = [cell.rpartition(">")[2] for cell in page.split("</td>")]
    assert [c for c in cells if c] == [
        *("lm-x", "nll", "2.346", "0.012", "+0.500", "0.071", "1,200", "34,567", "0.2500"),
    ]
    assert "Arm &lt;b&gt;" in page


def test_layers_say_which_stay():
    rows = [
        {"layer": 4, "task": "t", "metric": "m", "harm": 0.2, "stderr": 0.1, "rank": 1,
         "mean_rank": 1.5, "is_kept": True},
        {"layer": 0, "task": "t", "metric": "m", "harm": -0.1, "stderr": 0.1, "rank": 2,
         "mean_rank": 1.5, "is_kept": False},
    ]  # fmt: skip
    page = shown(arm(layers={"layers": rows}))
    assert page.count(">yes<") == 1
    assert "+0.20" in page
    assert "-0.10" in page or "−0.10" in page


def test_broken_rows_are_left_out_and_nothing_is_no_section():
    assert conversions(arm(stages={"stages": "none"})) == []
    assert "x" in shown(arm(stages={"stages": [3, {"stage": "x"}]}))
    assert section({"arms": [], "conversions": {}}) == ""

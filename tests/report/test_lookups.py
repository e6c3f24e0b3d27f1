"""Phonebook results in the page: numbers over seeds, and three figures for each order."""

import re

import pytest

from braidlm import report
from braidlm.report import books, svg
from braidlm.report.plots import estimates
from braidlm.report.stats import Estimate

from .making import config, lm, phonebook, write_run, write_study


@pytest.fixture
def study(tmp_path):
    """Two arms of two seeds, both orders."""
    for arm, value in (("good", 0.9), ("bad", 0.3)):
        for seed in (0, 1):
            found = phonebook(value + 0.04 * seed, orders=("standard", "reversed"))
            path = tmp_path / "s" / arm / f"seed-{seed}"
            write_run(path, config(name=arm, seed=seed), results=[found])
    write_study(tmp_path / "s", ["good", "bad"])
    return tmp_path / "s"


def test_rows_are_means_over_seeds(study):
    found = report.tables([study])["lookups"]["phonebook-lookup"]
    assert list(found) == ["standard", "reversed"]
    lengths = found["standard"]["by_length"]["good"]
    assert [row["length"] for row in lengths] == [256, 512, 1024]
    assert lengths[1]["exact"]["mean"] == pytest.approx(0.82)
    assert lengths[1]["exact"]["seed_stderr"] == pytest.approx(0.02)
    assert lengths[1]["digits"]["mean"] == 0.5
    depths = found["reversed"]["by_depth"]["bad"]
    assert [(r["length"], r["start"]) for r in depths[:3]] == [(256, 0), (256, 0.5), (512, 0)]
    assert [r["exact"]["mean"] for r in depths[:2]] == pytest.approx([0.32, 0])
    digits = found["standard"]["by_digit"]["good"]
    assert [row["right"]["mean"] for row in digits] == pytest.approx(
        [0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    )


def test_the_columns_say_which_is_better(study):
    data = report.tables([study])
    assert [(c["title"], c["better"]) for c in data["columns"]] == [
        ("Phonebook, exact", "higher"),
        ("Phonebook digits", "higher"),
    ]
    assert data["leads"]["phonebook-lookup.exact"]["best"] == "good"


def test_every_figure_is_on_the_page(study, tmp_path):
    page = report.build([study], tmp_path / "page.html").read_text()
    for order in ("standard", "reversed"):
        for title in ("by length", "by place"):
            assert f"Phonebook {title} ({order} order)" in page
        assert f"Phonebook digits ({order} order)" in page
    assert "chance 0.1" in page
    assert "good, 256 tokens, place 0 to 0.5: 0.920" in page


def test_the_line_of_chance_lies_at_a_tenth(study):
    rows = report.tables([study])["lookups"]["phonebook-lookup"]["standard"]["by_digit"]
    drawn = books.by_digit(rows, {"good": "good", "bad": "bad"})
    assert drawn is not None
    # Digit 7 of both arms is right in 0.1: its mean lies on the line, those before it above.
    level = float(re.search(r'class="level" d="M[\d.]+ ([\d.]+)H', drawn)[1])  # type: ignore[index]
    line = re.search(r'<path class="line[^"]*" d="([^"]+)"', drawn)[1]  # type: ignore[index]
    heights = [float(point.split()[1]) for point in line.lstrip("M").split("L")]
    assert heights[-1] == pytest.approx(level, abs=0.2)
    assert heights == sorted(heights)


def test_cells_are_as_full_as_the_share(study):
    rows = report.tables([study])["lookups"]["phonebook-lookup"]["standard"]["by_depth"]
    drawn = books.by_depth(rows, {"good": "good", "bad": "bad"})
    assert drawn is not None
    shown = re.findall(r'fill-opacity="([\d.]+)"', drawn)
    assert shown == ["0.920", "0.000"] * 3 + ["0.320", "0.000"] * 3
    assert drawn.count("data-arm") == 2


def test_a_report_without_look_ups_has_none(tmp_path):
    run = write_run(tmp_path / "run", results=[lm(1.5)])
    assert report.tables([run])["lookups"] == {}
    page = report.build([run], tmp_path / "page.html").read_text()
    assert "Phonebook" not in page


def test_results_without_their_tables_are_left_out(tmp_path):
    found = phonebook(0.5)
    found["tables"] = {}
    run = write_run(tmp_path / "run", results=[found])
    assert report.tables([run])["lookups"] == {"phonebook-lookup": {}}
    assert "Phonebook by" not in report.build([run], tmp_path / "page.html").read_text()


def test_the_name_of_the_line_is_drawn_over_bars():
    found = Estimate(0.2, None, 0.1, 1, 8, (0.2,))
    x = svg.scale([1, 2], 0.0, 100.0, pad=0.1)
    drawn = estimates(
        *({"a": [(1.0, found), (2.0, found)]}, {"a": "a"}, x),
        titles=("x", "y"),
        name=str,
        level=0.2,
        level_name="chance",
    )
    assert drawn.index('class="level"') < drawn.index('class="error') < drawn.index("chance 0.2")

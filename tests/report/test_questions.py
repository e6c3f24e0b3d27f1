"""Question tasks in the page: scores by length over seeds, and what is known without the text."""

import re

import pytest

from braidlm import report
from braidlm.report import grids, questions
from braidlm.report.stats import Estimate

from .making import asked, config, mqar, write_run, write_study

LABELS = {"good": "good", "bad": "bad"}


@pytest.fixture
def study(tmp_path):
    """Two arms of two seeds."""
    for arm, value in (("good", 0.8), ("bad", 0.3)):
        for seed in (0, 1):
            path = tmp_path / "s" / arm / f"seed-{seed}"
            found = asked(value + 0.04 * seed, {"length": (512, 1024, 2048)})
            write_run(path, config(name=arm, seed=seed), results=[found])
    write_study(tmp_path / "s", ["good", "bad"])
    return tmp_path / "s"


def test_rows_are_means_over_seeds_with_both_errors(study):
    found = report.tables([study])["questions"]["recall-fda"]
    assert (found["metric"], found["unit"], list(found["levels"])) == (
        "contains",
        "share",
        ["length"],
    )
    rows = found["levels"]["length"]["good"]
    assert [row["level"] for row in rows] == [512, 1024, 2048]
    assert rows[1]["contains"]["mean"] == pytest.approx(0.72)
    assert rows[1]["contains"]["seed_stderr"] == pytest.approx(0.02)
    assert rows[1]["contains"]["item_stderr"] == pytest.approx(0.05)
    assert rows[1]["without_context"]["mean"] == pytest.approx(0.1)
    assert found["whole"]["bad"]["contains"]["n_seeds"] == 2


def test_the_page_draws_the_score_and_the_line_without_the_text(study, tmp_path):
    data = report.tables([study])
    task = data["questions"]["recall-fda"]
    drawn = questions.by_level(task["levels"]["length"], task, LABELS, "length")
    assert drawn is not None
    level = float(re.search(r'class="level" d="M[\d.]+ ([\d.]+)H', drawn)[1])  # type: ignore[index]
    lines = re.findall(r'<path class="line[^"]*" d="([^"]+)"', drawn)
    heights = [[float(p.split()[1]) for p in line.lstrip("M").split("L")] for line in lines]
    assert len(lines) == 2
    # Down is greater: scores fall with the length, and all lie above the line at 0.1.
    assert all(h == sorted(h) and h[-1] < level for h in heights)
    page = report.build([study], tmp_path / "page.html").read_text()
    assert "fda by length" in page
    assert "without the text" in page
    assert "good, 512 tokens: 0.820" in page
    assert [c["title"] for c in data["columns"]] == ["recall contains"]


def test_words_and_single_levels_are_tables(tmp_path):
    run = tmp_path / "run"
    write_run(run, config(), results=[asked(0.5, {"language": ("en", "fr")}), mqar(0.4)])
    page = report.build([run], tmp_path / "page.html").read_text()
    assert "contains by language" in page
    assert ">fr<" in page
    plain = tmp_path / "plain"
    write_run(plain, config(), results=[asked(0.5, {})])
    found = report.tables([plain])["questions"]["recall-fda"]
    assert found["levels"] == {}
    assert "contains by questions" in report.build([plain], tmp_path / "two.html").read_text()


def test_other_tasks_and_damaged_tables_are_left_out(tmp_path):
    run = tmp_path / "run"
    damaged = asked(0.5, {"length": (512, 1024)})
    damaged["tables"]["by_length"][0]["length"] = None
    damaged["tables"]["by_length"][1]["contains"] = "x"
    write_run(run, config(), results=[mqar(0.4), damaged])
    found = report.tables([run])["questions"]
    assert list(found) == ["recall-fda"]
    [row] = next(iter(found["recall-fda"]["levels"]["length"].values()))
    assert row["level"] == 1024
    assert "contains" not in row
    assert report.build([run], tmp_path / "page.html").is_file()


def test_length_and_depth_are_a_grid(tmp_path):
    run = tmp_path / "run"
    found = asked(0.9, {"length": (512, 1024), "depth": (0, 50, 100)})
    write_run(run, config(), results=[found])
    data = report.tables([run])
    assert list(data["questions"]["recall-fda"]["levels"]) == ["length", "depth"]
    page = report.build([run], tmp_path / "page.html").read_text()
    assert "fda by length and depth" in page
    assert re.findall(r'fill-opacity="([\d.]+)"', page) == ["0.900", "0.700", "0.500"] * 2
    assert "512 tokens, depth 50: 0.70" in page
    assert re.findall(r'class="share">(\d+)<', page) == ["90", "70", "50"] * 2
    assert ">0 %<" in page
    assert ">100 %<" in page
    write_run(
        tmp_path / "documents",
        config(),
        results=[asked(0.9, {"documents": (10, 20), "depth": (0, 50)})],
    )
    page = report.build([tmp_path / "documents"], tmp_path / "page.html").read_text()
    assert "fda by documents and depth" in page
    assert "20 documents, depth 50: 0.70" in page
    needles = [{"length": 512, "depth": 5.0, "recall": 0.25, "recall_stderr": 0.1, "n": 4}]
    found["tables"]["by_needle"] = needles
    write_run(tmp_path / "two", config(), results=[found])
    page = report.build([tmp_path / "two"], tmp_path / "page.html").read_text()
    assert re.findall(r'fill-opacity="([\d.]+)"', page) == ["0.250"]
    assert "depth 5: 0.25 ± 0.10 over items, n = 4" in page
    assert "by needle" not in page


def test_a_grid_of_many_lengths_has_no_room_for_numbers():
    cells = [grids.Cell(n, 0, Estimate(0.5, None, None, 1, None, (0.5,)), "x") for n in range(40)]
    narrow = grids.draw({"arm": cells}, {"arm": "arm"}, ends=("a", "b"), title="t")
    wide = grids.draw({"arm": cells[:4]}, {"arm": "arm"}, ends=("a", "b"), title="t")
    assert narrow is not None
    assert wide is not None
    assert narrow.count('class="heat"') == 40
    assert 'class="share"' not in narrow
    assert wide.count('class="share">50<') == 4
    assert "n =" not in wide
    ticks = [re.findall(r'class="tick">(\d+)<', drawn) for drawn in (narrow, wide)]
    assert ticks == [["0", "39"], ["0", "1", "2", "3"]]

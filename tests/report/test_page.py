import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from braidlm import report
from braidlm.report import plots, svg
from braidlm.report.stats import Estimate

from .making import config, lm, losses, mqar, write_run, write_study

VOID = {"meta", "link", "input", "br"}
EVIL = "<script>alert('x')</script>&\"'"


class Checker(HTMLParser):
    """Fails on a tag that is closed out of order; collects tags and text."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.text, self.attributes = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)


def _checked(path):
    checker = Checker()
    checker.feed(path.read_text(encoding="utf-8"))
    checker.close()
    assert checker.open == []
    numbers = [v for _, a in checker.attributes for k, v in a.items() if k in ("d", "x", "y")]
    assert not re.search(r"nan|inf", " ".join(numbers))
    return checker


def _arms(path, n, seeds=(0, 1), name="arm {}"):
    patterns = ("(*-)6", "M-M-*-", "{M*}-", "(M-)6")
    for i in range(n):
        for seed in seeds:
            write_run(
                path / f"a{i}" / f"seed-{seed}",
                config(patterns[i % 4], seed=seed),
                results=[lm(1.5 + 0.01 * i + 0.001 * seed), mqar(0.9 - 0.02 * i)],
            )
    arms = [{"name": f"a{i}", "label": name.format(i), "overrides": []} for i in range(n)]
    write_study(path, [], arms=arms, seeds=list(seeds))
    return path


def test_a_study_becomes_one_offline_page(tmp_path):
    out = report.build([_arms(tmp_path / "s", 4)], tmp_path / "deep" / "report.html")
    page = _checked(out)
    text = " ".join(page.text)
    assert out.is_file()
    assert page.tags.count("h1") == 1
    for heading in ("Arms", "Figures", "Layers", "To reproduce", "Recall against cache"):
        assert heading in text
    for number in ("1.5005", "± 0.0005 over 2 seeds", "± 0.0100 over items", "0.900"):
        assert number in text
    assert page.tags.count("figcaption") == 5 + 4  # plots and layer diagrams
    html = out.read_text()
    assert not re.search(r"""(src|href)=["'](?!#|data:,)""", html)
    assert "http" not in html.replace("http-equiv", "")
    assert "@import" not in html


def test_the_table_can_be_sorted_and_reached_by_keyboard(tmp_path):
    page = _checked(report.build([_arms(tmp_path / "s", 2)], tmp_path / "r.html"))
    heads = [a for tag, a in page.attributes if tag == "th" and "data-first" in a]
    assert len(heads) == 8
    assert heads[-1]["data-first"] == "descending"  # recall: highest first
    assert all(a["tabindex"] == "0" for _, a in page.attributes if a.get("class") == "scroll")
    script = (files("braidlm.report") / "script.js").read_text()
    assert 'setAttribute("aria-sort"' in script


def test_strings_from_files_are_escaped_everywhere(tmp_path):
    bad = lm(1.5, name=EVIL, device=EVIL, dtype=EVIL, ops={EVIL: EVIL}, code_version=EVIL)
    run = tmp_path / "s" / "a" / "seed-0"
    write_run(run, config(name=EVIL), results=[mqar(0.5)], state="failed", error=EVIL)
    (run / "results" / "lm-x.json").write_text(__import__("json").dumps(bad))
    arm = {"name": "a", "label": EVIL, "overrides": [EVIL]}
    write_study(tmp_path / "s", [], arms=[arm], name=EVIL, description=EVIL, matched=[EVIL])
    out = report.build([tmp_path / "s"], tmp_path / "r.html")
    page = _checked(out)
    assert page.tags.count("script") == 1
    assert "<script>alert" not in out.read_text()
    assert EVIL in "".join(page.text)


def test_what_a_study_changed_is_folded_away_with_the_config(tmp_path):
    """A change can be a whole model: too long for the line that unfolds it."""
    write_run(tmp_path / "s" / "a" / "seed-0", config(), results=[lm(1.5)])
    arm = {"name": "a", "label": "A", "overrides": ["train.steps=2", "model={...}"]}
    write_study(tmp_path / "s", [], arms=[arm])
    out = report.build([tmp_path / "s"], tmp_path / "r.html")
    _checked(out)
    page = out.read_text()
    assert "<summary>Resolved config of A</summary>" in page
    assert ">train.steps=2\nmodel={...}</pre>" in page


def test_half_a_character_does_not_stop_the_page(tmp_path):
    run = write_run(tmp_path / "r", error="\ud800 broke", state="failed", results=[lm(1.5)])
    _checked(report.build([run], tmp_path / "r.html"))
    assert "? broke" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_config_cannot_break_out_of_its_box(tmp_path):
    odd = config() | {"note": "</pre></details><script>1</script>"}
    page = _checked(report.build([write_run(tmp_path / "r", odd)], tmp_path / "r.html"))
    assert page.tags.count("script") == 1
    assert "its config cannot be resolved" in " ".join(page.text)


@pytest.mark.parametrize(
    "metrics",
    [
        [],
        losses(1, 2.0),
        [{"step": 5, "loss": None}],
        [{"step": 0, "loss": 3.0}, {"step": 0, "loss": 3.0}],
        [{"step": 1, "loss": 0.0}, {"step": 2, "loss": 0.0}],
        [{"nothing": 1}, {"step": "x", "loss": "y"}],
    ],
)
def test_odd_logs_still_give_a_page(tmp_path, metrics):
    _checked(report.build([write_run(tmp_path / "r", metrics=metrics)], tmp_path / "r.html"))


def test_odd_results_still_give_a_page(tmp_path):
    zero = mqar(0.0, stderr=0.0)
    zero["tables"]["by_pairs"][0] |= {"n_pairs": 0, "accuracy": None, "graded_stderr": None}
    empty = lm(1.0)
    empty["tables"], empty["metrics"] = {}, {}
    for i, results in enumerate(([], [zero], [empty], [lm(float("nan"))])):
        run = write_run(tmp_path / f"r{i}", config("M-", vocab_size=300 + i), results=results)
        _checked(report.build([run], tmp_path / f"{i}.html"))


def test_an_arm_without_any_cache_has_a_place_on_the_log_axis(tmp_path):
    runs = [
        write_run(tmp_path / p, config(p, name=p), results=[mqar(0.1)]) for p in ("--", "*-", "M-")
    ]
    data = report.tables(runs)
    assert data["arms"][0]["cache_bytes"] == 0
    _checked(report.build(runs, tmp_path / "r.html"))


def test_many_arms_with_long_names(tmp_path):
    name = "a very long name of an arm without any end in sight " * 3 + "{}"
    page = _checked(report.build([_arms(tmp_path / "s", 20, (0,), name)], tmp_path / "r.html"))
    text = " ".join(page.text)
    assert "Labels: the arms that no other beats on both axes." in text
    assert "1 seed: item error only" in text


def _row(arm, nbytes, recall):
    entry = {"mean": recall, "seed_stderr": None, "item_stderr": 0.1, "n_seeds": 1}
    return {
        "arm": arm,
        "cache_bytes": nbytes,
        "recall": entry | {"n_items": 10, "values": [recall]},
    }


def test_frontier_puts_points_where_the_axes_say():
    rows = [_row("a", 2.0**10, 0.2), _row("b", 2.0**20, 0.8)]
    drawn = plots.frontier(rows, ["a", "b"], {"a": "a", "b": "b"})
    assert drawn
    marks = re.findall(r'<path class="mark c\d"[^>]* d="M([\d.]+) ([\d.]+)', drawn)
    circle_x, circle_y = (float(v) for v in marks[0])
    # 15 % of air on each side of log bytes, and of the range 0.1..0.9 of the error bars
    assert circle_x + 5.2 == pytest.approx(68 + 418 * 0.15 / 1.3, abs=0.2)
    assert circle_y == pytest.approx(276 - 262 * (0.1 + 0.12) / (0.8 * 1.3), abs=0.2)
    bar = re.search(r'class="error c0" d="M[\d.]+ ([\d.]+)V([\d.]+)', drawn)
    assert bar
    height = float(bar[1]) - float(bar[2])
    assert abs(height) == pytest.approx(262 * 0.2 / (0.8 * 1.3), abs=0.2)


def test_only_undominated_arms_are_labelled_when_they_are_many():
    rows = [_row(f"a{i}", 1000.0 + i, 0.5) for i in range(9)] + [_row("top", 2000.0, 0.9)]
    assert plots.labelled(rows) == ["a0", "top"]


def _luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a, b):
    light, dark = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_colours_are_readable_in_both_schemes():
    style = (files("braidlm.report") / "style.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style, flags=re.S)[:2]
    for scheme in (light, dark):
        colours = dict(re.findall(r"--([\w-]+): (#\w{6})", scheme))
        for name in ("ink", "soft", "link", "warn"):
            assert _contrast(colours[name], colours["paper"]) >= 4.5, name
        for i in range(7):
            assert _contrast(colours[f"c{i}"], colours["paper"]) >= 3, i
        for kind in ("attention", "window", "mamba", "scan", "delta", "channel", "experts"):
            assert _contrast(colours["ink"], colours[kind]) >= 4.5, kind


def test_report_never_imports_torch(tmp_path):
    write_run(tmp_path / "r", results=[lm(1.5), mqar(0.9)])
    code = (
        "import sys\nfrom braidlm import report\n"
        f"report.build([{str(tmp_path / 'r')!r}], {str(tmp_path / 'r.html')!r})\n"
        "assert 'torch' not in sys.modules, 'torch'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_bar_of_a_share_ends_where_shares_end():
    rows = [_row("a", 2.0**10, 0.02), _row("b", 2.0**20, 0.97)]
    drawn = plots.frontier(rows, ["a", "b"], {"a": "a", "b": "b"})
    assert drawn
    bars = re.findall(r'class="error c\d" d="M[\d.]+ ([\d.]+)V([\d.]+)', drawn)
    places = sorted(float(end) for bar in bars for end in bar)
    # 0 and 1, with 15 % of air: no bar reaches to -0.08 or 1.07
    unit = 262 / 1.3
    assert places[0] == pytest.approx(276 - unit * 1.15, abs=0.2)
    assert places[-1] == pytest.approx(276 - unit * 0.15, abs=0.2)


def test_a_bar_without_a_range_is_whole_and_one_of_no_length_is_left_out():
    found = Estimate(0.0, None, 0.25, 1, 4, (0.0,))
    x = svg.scale([1.0, 2.0], 0.0, 100.0)
    for limits, low in (((), -0.25), ((0.0, 1.0), 0.0)):
        drawn = plots.estimates(
            {"a": [(1.0, found)]}, {"a": "a"}, x, titles=("x", "y"), name=str, limits=limits
        )
        bar = re.search(r'class="error c0" d="M[\d.]+ ([\d.]+)V([\d.]+)', drawn)
        assert bar
        axis = svg.scale([low, 0.25, *limits], plots.BOTTOM, plots.TOP)
        assert sorted(map(float, bar.groups()), reverse=True) == pytest.approx(
            [axis(low), axis(0.25)], abs=0.1
        )
    sure = Estimate(0.0, None, None, 1, None, (0.0,))
    rows = {"a": [(1.0, sure)]}
    assert "error c" not in plots.estimates(rows, {"a": "a"}, x, titles=("x", "y"), name=str)

"""Pictures and sentences of `braid analyze`: from result files alone, and only what is clear."""

import re

import pytest

from braidlm import report
from braidlm.errors import InputError
from braidlm.report.analysis.finding import half_width, is_clear, told
from braidlm.report.analysis.heat import Square, heat
from braidlm.report.analysis.strips import Dot, Strip, strips

from .making import config, measured, result, write_run, write_study
from .test_page import EVIL, _checked


def checked(path):
    """The text of a page that is sound HTML."""
    _checked(path)
    return path.read_text()


def looked(instrument, metric, tables, *, inputs=None, name="", **fields):
    """A result of an instrument; without a metric it does not apply."""
    about = {"instrument": instrument, "inputs": {"longest": 128, **(inputs or {})}, "layers": None}
    fields = {"analysis": about, "instrument": {"title": f"About {instrument}"}, **fields}
    metrics = {metric: measured(5.0, 0.5, "tokens", 8)}
    return result("analysis", name or instrument, metric, metrics, tables, **fields)


def head(place, number, half_life, stderr, **fields):
    row = {"layer": int(place[0]), "place": place, "letter": "M", "kind": "mamba2", "head": number}
    row |= {"half_life": half_life, "half_life_stderr": stderr, "low": 1.0}
    return row | {"high": 80.0, "over": "tokens", "n": 8} | fields


def memory(rows, **fields):
    return looked("memory-length", "half_life", {"heads": rows}, **fields)


def findings(path):
    (found,) = report.tables([path])["analyses"].values()
    return found["findings"]


def test_what_is_clear_is_said_with_its_interval(tmp_path):
    rows = [head("0", 0, 2.0, 0.1), head("0", 1, 60.0, 3.0), head("2.0", 0, 9.0, 0.2)]
    run = write_run(tmp_path / "r", config("M-{M*}-"), results=[memory(rows)])
    longest, short = findings(run)
    width = 2.365 * 3.0
    assert f"layer 0 (Mamba-2), head 1: a half-life of 60.0 ± {width:.1f} tokens" in longest
    assert "shorter than the 128 tokens" in longest
    assert short.startswith(
        "2 of 3 heads forget half within 16 tokens (the slowest of them in 9.00"
    )


def test_what_the_interval_leaves_open_is_not_said(tmp_path):
    rows = [head("0", 0, 120.0, 5.0), head("0", 1, 15.9, 0.2)]
    run = write_run(tmp_path / "r", config("M-"), results=[memory(rows)])
    assert findings(run) == []
    assert "Nothing stands out" in report.build_analysis(run, tmp_path / "p.html").read_text()


def test_heads_that_turn_around_are_told(tmp_path):
    rows = [
        head("0", i, 5.0, 0.1, beta=1.4, beta_stderr=0.01, eigenvalue=e, eigenvalue_stderr=0.01)
        for i, e in enumerate((-0.3, -0.01, 0.4))
    ]
    run = write_run(tmp_path / "r", config("G-"), results=[memory(rows)])
    assert any("1 of 3 heads of delta rules turn around" in said for said in findings(run))
    text = report.build_analysis(run, tmp_path / "p.html").read_text()
    assert "Erasure by delta rules" in text


def test_the_page_has_every_head_and_no_other_file(tmp_path):
    rows = [head("0", 0, 2.0, 0.1), head("2.0", 1, 60.0, 3.0), head("1", 0, None, None)]
    why = looked("attention-span", "distance", {}, why_not="no layer attends")
    text_too = memory(rows, name="memory-length.text", inputs={"file": EVIL})
    results = [memory(rows), text_too, why]
    run = write_run(tmp_path / "r", config("M-{M*}-"), results=results)
    text = checked(report.build_analysis(run, tmp_path / "p.html"))
    assert len(re.findall(r'<path class="mark[^>]*head \d', text)) == 4
    assert "attention-span: no layer attends." in text
    assert "2.0: Mamba-2" in text
    assert EVIL not in text


def test_a_report_has_a_section_and_no_column(tmp_path):
    for seed in (0, 1):
        rows = [head("0", 0, 2.0 + seed, 0.1)]
        write_run(tmp_path / "a" / f"seed-{seed}", config("M-", seed=seed), results=[memory(rows)])
    write_run(tmp_path / "b" / "seed-0", config("M*"))
    write_study(tmp_path, ["a", "b"])
    data = report.tables([tmp_path])
    assert data["columns"] == []
    assert (data["analyses"]["a"]["seed"], data["analyses"]["a"]["n_analysed"]) == (0, 2)
    assert data["analyses"]["b"] == {}
    text = checked(report.build([tmp_path], tmp_path / "r.html"))
    assert "Where the memory is" in text
    assert "half-life 2.00" in text
    with pytest.raises(InputError, match="is a study"):
        report.build_analysis(tmp_path, tmp_path / "p.html")


def test_a_report_without_analyses_has_no_section(tmp_path):
    run = write_run(tmp_path / "r", config("M-"))
    assert "Where the memory is" not in report.build([run], tmp_path / "r.html").read_text()
    assert "run braid analyze first" in report.build_analysis(run, tmp_path / "p.html").read_text()


@pytest.mark.parametrize(
    "broken",
    [
        {"tables": {"heads": [{"place": None}, {"half_life": "x", "n": 3}]}},
        {"tables": {}, "analysis": None, "instrument": None},
        {"analysis": {"instrument": "tomorrow's"}},
        {"metrics": {"half_life": {"value": None}}},
    ],
)
def test_results_of_another_shape_do_no_harm(tmp_path, broken):
    run = write_run(tmp_path / "r", config("M-"), results=[memory([]) | broken])
    assert findings(run) == []
    checked(report.build_analysis(run, tmp_path / "p.html"))


def attends(place, number, rest, four, **fields):
    row = {"layer": int(place), "place": place, "letter": "*", "kind": "attention", "head": number}
    row |= {"distance": 30.0, "span": 60.0, "entropy": 2.0, "rest": rest, "four": four, "n": 8}
    row |= {"rest_stderr": 1.0, "four_stderr": 0.01, "first": four / 2, "learned": 0.0, "meta": 0}
    return row | fields


def test_heads_that_rest_on_the_first_tokens_are_told(tmp_path):
    rows = [attends("2", i, rest, four) for i, (rest, four) in enumerate(((40, 0.2), (9, 0.8)))]
    told_of = [looked("attention-span", "distance", {"heads": rows})]
    run = write_run(tmp_path / "r", config("M-*-"), results=told_of)
    farthest, resting = findings(run)
    assert "farthest back in layer 2 (attention), head 0, 40.0 ± 2.4 tokens" in farthest
    assert "least far in layer 2 (attention), head 1, 9.0 ± 2.4 tokens" in farthest
    assert resting.startswith("1 of 2 heads rest on the first four tokens with more than 30%")
    assert "head 1: 0.800 ± 0.024 of it" in resting
    text = checked(report.build_analysis(run, tmp_path / "p.html"))
    assert "Weight on the first four tokens" in text
    assert "Weight on the learned sink" not in text
    assert 'fill-opacity="0.800"' in text


def test_heads_of_one_reach_are_not_told_apart(tmp_path):
    rows = [attends("2", 0, 20.0, 0.31), attends("2", 1, 18.0, 0.32)]
    told_of = [looked("attention-span", "distance", {"heads": rows})]
    assert findings(write_run(tmp_path / "r", config("M-*-"), results=told_of)) == []


def test_branches_and_what_they_say_more_on(tmp_path):
    def branch(i, tokens, share):
        row = {"layer": 0, "place": f"0.{i}", "kind": ("mamba2", "attention")[i], "branch": i}
        return row | {"tokens": tokens, "share": share, "share_stderr": 0.01, "rms": 1.0, "n": 8}

    contrasts = [
        {"symbol": "{M*}", "branch": 1, "kind": "attention", "tokens": tokens, "n": 8}
        | {"contrast": value, "contrast_stderr": 0.01}
        for tokens, value in (("number", 0.1), ("start", -0.02), ("continuation", 0.05))
    ]
    pair = {"layer": 0, "place": "0", "branches": "0,1", "tokens": "all", "cosine": -0.4, "n": 8}
    tables = {
        "branches": [branch(i, t, 0.3 + 0.4 * i) for i in (0, 1) for t in ("all", "number")],
        "pairs": [pair | {"cosine_stderr": 0.1}],
        "contrasts": contrasts,
    }
    told_of = [looked("branch-share", "first_share", tables)]
    run = write_run(tmp_path / "r", config("{M*}-"), results=told_of)
    assert findings(run) == [
        "The branch with the largest share is layer 0.1 (attention): 0.700 ± 0.024.",
        "In layers {M*}, attention says more on numbers than on other tokens: its share differs by "
        "0.100 ± 0.024.",
    ]
    text = checked(report.build_analysis(run, tmp_path / "p.html"))
    assert "0.1: attention" in text
    assert "starts of sentences" not in text
    assert "0: branches 0, 1" in text


def test_intervals():
    assert half_width(1.0, 8) == pytest.approx(2.365)
    assert half_width(None, 8) == half_width(1.0, 1) == float("inf")
    assert is_clear(3.0, 1.0, 8, 0.0)
    assert not is_clear(2.0, 1.0, 8, 0.0)
    assert not is_clear(2.0, None, 8, 0.0)
    assert told(12.345, 0.1, 8, " tokens") == "12.35 ± 0.24 tokens"
    assert told(12.345, None, 8) == "12.35"


def test_strips_place_dots_by_their_values():
    rows = [Strip("a", 0, (Dot(1.0, "one", 0.5, 2.0), Dot(100.0, "hundred"))), Strip("b", 1, ())]
    drawn = strips(rows, "x", title="t", marks=[(10.0, "ten")]) or ""
    at = {t: float(x) for t, x in re.findall(r'data-tip="(\w+)"[^>]*d="M([\d.]+)', drawn)}
    (mark,) = map(float, re.findall(r'class="level" d="M([\d.]+)', drawn))
    assert mark - at["one"] - 3.6 == pytest.approx(at["hundred"] + 3.6 - mark, abs=0.2)
    assert strips([Strip("a", 0, ())], "x", title="t") is None


def test_heat_is_as_full_as_the_share():
    drawn = (
        heat([("a", [Square(0.25, "x"), Square(None, "y")])], ["0", "1"], "head", title="t") or ""
    )
    assert re.findall(r'fill-opacity="([\d.]+)"', drawn) == ["0.250", "0.000"]
    assert heat([], [], "head", title="t") is None


def test_what_examples_and_context_teach(tmp_path):
    def shot(k, accuracy, n):
        row = {"shots": k, "tokens": 40.0 + 2 * k, "accuracy": accuracy, "accuracy_stderr": 0.05}
        return row | {"n": n}

    def gained(value, stderr, unit, n=8):
        return {"gain": measured(value, stderr, unit, n)}

    shots = [shot(0, 0.25, 8), shot(1, 0.5, 8), shot(4, 0.75, 5)]
    bins = [{"start": 2**k, "end": 2 ** (k + 1), "loss": 5.0 - k, "n": 8} for k in range(7)]
    recall = looked("in-context", "gain", {"by_shots": shots}, name="in-context.recall")
    text = looked("in-context", "gain", {"by_position": bins})
    unclear = looked("in-context", "gain", {"by_shots": shots}, name="in-context.other")
    recall["metrics"], text["metrics"] = gained(0.5, 0.1, "share", 5), gained(1.25, 0.01, "nats")
    unclear["metrics"] = gained(0.5, 0.3, "share", 5)
    run = write_run(tmp_path / "r", config("M-*-"), results=[recall, text, unclear])
    of_text, of_shots = findings(run)
    assert of_text.startswith("Behind half of 128 tokens of context the loss is 1.250 ± 0.024 nats")
    assert of_text.endswith("nats lower than at tokens 8 to 16.")
    assert of_shots == (
        "Recall after 4 worked examples is 0.75 ± 0.14, 0.50 ± 0.28 more than of the same "
        "questions without any."
    )
    page = checked(report.build_analysis(run, tmp_path / "p.html"))
    assert "only 5 prompts have so many" in page
    assert len(re.findall(r'class="mark[^>]*tokens of context', page)) == 7
    assert len(re.findall(r'class="mark[^>]*examples?', page)) == 6

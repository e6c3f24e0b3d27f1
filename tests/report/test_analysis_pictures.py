"""Pictures of influence, state use, surgery, heads, repeats: numbers at their place, in words."""

import re

import pytest

from braidlm import report
from braidlm.report.analysis.curves import Curve, Mark, curves
from braidlm.report.analysis.finding import told
from braidlm.report.analysis.read import what_was_read
from braidlm.report.analysis.side import COMPARED
from braidlm.report.analysis.strips import Dot, Strip, strips
from braidlm.report.analysis.table import PICTURES

from .making import config, measured, write_run, write_study
from .test_analysis import checked, findings, looked

MAMBA = {"layer": 0, "place": "0", "letter": "M", "kind": "mamba2", "n": 8}
HEAD = {"layer": 2, "place": "2", "letter": "*", "kind": "attention", "n": 8}
MODEL = {"layer": -1, "place": "model", "letter": "", "kind": "model", "n": 8}


def drawn(tmp_path, *results):
    """A run with these results: its page and its sentences."""
    run = write_run(tmp_path / "r", config("M-*-"), results=list(results))
    return checked(report.build_analysis(run, tmp_path / "p.html")), findings(run)


def with_metrics(result, **metrics):
    result["metrics"] |= {
        name: measured(value, stderr, "", 8) for name, (value, stderr) in metrics.items()
    }
    return result


def test_influence_has_a_row_per_mixer_and_a_column_per_bin(tmp_path):
    bins = [(0, 1, 0.5), (1, 2, 0.25), (2, 4, 0.25)]
    rows = [
        about | {"start": start, "end": end, "share": share, "share_stderr": 0.01}
        for about in (MODEL, MAMBA, HEAD)
        for start, end, share in bins
    ]
    halves = [
        about | {"half_distance": half, "half_distance_stderr": 1.0}
        for about, half in ((MODEL, 5.0), (MAMBA, 2.0), (HEAD, 40.0))
    ]
    tables = {"by_distance": rows, "by_place": halves}
    result = with_metrics(looked("influence", "half_distance", tables), half_distance=(5.0, 1.0))
    text, (whole, reach) = drawn(tmp_path, result)
    assert re.findall(r'fill-opacity="([\d.]+)"', text) == ["0.500", "0.250", "0.250"] * 3
    assert "0: Mamba-2, 2–3 tokens back: 0.250 ± 0.024 of the squares" in text
    assert whole.startswith("Half of the last output's dependence on earlier tokens lies within 5")
    assert "layer 2 (attention) depends on what is farthest back" in reach
    assert "a half distance of 40.0 ± 2.4 tokens" in reach
    assert "layer 0 (Mamba-2) on what is nearest" in reach


def test_mixers_of_one_half_distance_are_not_told_apart(tmp_path):
    halves = [
        about | {"half_distance": half, "half_distance_stderr": 1.0}
        for about, half in ((MAMBA, 20.0), (HEAD, 22.0))
    ]
    _, said = drawn(tmp_path, looked("influence", "half_distance", {"by_place": halves}))
    assert not any(sentence.startswith("Of all mixers") for sentence in said)


def test_states_their_growth_and_what_they_give_back(tmp_path):
    tables = {
        "by_head": [MAMBA | {"head": h, "rank": 2.0 + h, "rank_stderr": 0.1} for h in range(3)],
        "by_position": [
            MAMBA | {"read": read, "norm": norm, "norm_stderr": 0.01}
            for read, norm in ((0.125, 1.0), (0.25, 1.2), (0.5, 1.4), (1.0, 2.0))
        ],
        "read_out": [
            MAMBA | {"n_keys": n, "recovered": r, "recovered_stderr": 0.1, "n_floats": 64}
            for n, r in ((4, 3.5), (8, 5.0))
        ],
    }
    result = with_metrics(looked("state-use", "rank", tables), growth=(0.5, 0.01))
    text, (growth, best) = drawn(tmp_path, result)
    assert growth.startswith("Recurrent states still grow")
    assert "to the power 0.500 ± 0.024" in growth
    assert best.endswith("5.00 ± 0.24 of 8 pairs beyond chance.")
    assert "layer 0 (Mamba-2), head 2: 4.00 ± 0.24" in text
    assert "after 0.125 of a document: norm: 1.000" in text
    assert "layer 0 (Mamba-2): of 8 pairs: 5.00" in text
    assert ">of 4 pairs<" in text


def exchanged(total, kv, recurrent, nats=5.0):
    cells = [{"kv": a, "recurrent": b, "p_a": 0.9, "p_b": 0.1, "n": 8} for a in "AB" for b in "AB"]
    memories = [
        MAMBA | {"memory": "recurrent", "alone": recurrent, "without": recurrent},
        HEAD | {"memory": "kv", "alone": kv, "without": kv},
    ]
    effects = {"kv": kv, "recurrent": recurrent, "interaction": 0.0, "total": total}
    error = {f"{name}_stderr": 0.01 for name in (*effects, "alone", "without")}
    tables = {
        "by_cell": cells,
        "by_memory": [row | error for row in memories],
        "by_distance": [{"start": s, "end": 2 * s, "n": 4} | effects | error for s in (32, 64)],
    }
    metrics = {name: (value, 0.01) for name, value in effects.items()}
    metrics["kv_same_answer"] = (0.05, 0.01)
    metrics["total_nats"] = (nats, 0.1)
    metrics["kv_nats"] = metrics["recurrent_nats"] = (nats / 2, 0.1)
    return with_metrics(looked("surgery", "kv", tables), **metrics)


def test_surgery_says_which_memory_moves_the_answer(tmp_path):
    text, (moved, strongest) = drawn(tmp_path, exchanged(0.9, 0.9, 0.001))
    assert moved == (
        "Exchanging all memories moves 0.900 ± 0.024 of the probability from one answer to the "
        "other: 0.900 ± 0.024 with the KV caches."
    )
    assert strongest.startswith("By itself the cache of layer 2 (attention) moves most: 0.900")
    assert "KV of B, states of A: answer of B: 0.1" in text
    assert "2: attention, cache, alone from B: 0.900 ± 0.024" in text
    assert "KV caches, 64 tokens back or more: 0.900 ± 0.032" in text
    assert "caches, same answer: 0.050 ± 0.024" in text


def test_where_no_answer_moves_the_odds_are_told(tmp_path):
    _, said = drawn(tmp_path, exchanged(0.002, 0.001, 0.001))
    assert said == [
        "Exchanging all memories moves 5.00 ± 0.24 nats of the log odds from one answer to the "
        "other: 2.50 ± 0.24 with the KV caches and 2.50 ± 0.24 with the recurrent states."
    ]


def test_surgery_of_a_model_that_does_not_answer_says_nothing(tmp_path):
    _, said = drawn(tmp_path, exchanged(0.002, 0.001, 0.001, nats=0.05))
    assert said == []


def test_cuts_stand_beside_random_changes(tmp_path):
    def cut(about, harm, control, **fields):
        row = {"harm": harm, "control": control, "beyond": harm - control, "n": 8} | fields
        return about | row | {f"{name}_stderr": 0.1 for name in ("harm", "control", "beyond")}

    cuts = [
        cut({"cut": "drop", "what": "kv"}, 5.0, 1.0),
        cut({"cut": "drop", "what": "recurrent"}, 3.0, 2.9),
        cut({"cut": "drop", "what": "all"}, 9.0, 1.0),
        cut(MAMBA | {"cut": "skip", "what": "sublayer"}, 2.0, 4.0),
        cut(HEAD | {"cut": "skip", "what": "sublayer"}, 6.0, 1.5),
        *(cut({"cut": "hide", "what": f"{w} tokens", "window": w}, 8.0 / w, 1.0) for w in (1, 4)),
    ]
    result = looked("ablation", "loss", {"cuts": cuts})
    result["metrics"]["loss"]["unit"] = "nats per answer"
    text, (memory, layer) = drawn(tmp_path, result)
    assert memory == (
        "Without its KV caches the model loses 5.00 ± 0.24 nats per answer, 4.00 ± 0.24 more than "
        "by a random change as large."
    )
    assert layer.startswith("Of all layers layer 2 (attention) is missed most: 6.00 ± 0.24")
    assert "without 0: Mamba-2, a random change as large: 4.00 ± 0.24 nats" in text
    assert "4 tokens seen, the cut: 2.00 ± 0.24" in text
    assert "Loss that is added (nats per answer)" in text


def test_fusions_show_how_far_each_kind_of_token_looks(tmp_path):
    rows = [
        {"layer": 0, "place": "0.fusion", "letter": "{M*}", "kind": "fusion", "tokens": kind}
        | {"reach": reach, "reach_stderr": 0.1, "self": 0.5, "self_stderr": 0.01, "n": 8}
        for kind, reach in (("all", 7.0), ("number", 21.0))
    ]
    text, _ = drawn(tmp_path, looked("branch-share", "first_share", {"fusions": rows}))
    assert "layer 0.fusion, numbers: reach: 21.00 ± 0.24" in text
    assert "layer 0.fusion, all tokens: self: 0.500 ± 0.024" in text


def test_retrieval_heads_and_what_is_left_without_them(tmp_path):
    def cut(name, k, accuracy):
        row = {"cut": name, "k": k, "accuracy": accuracy, "accuracy_stderr": 0.1, "n": 8}
        return row | {"nll": 1.0, "nll_stderr": 0.1, "n_draws": 1}

    heads = [
        HEAD | {"head": h, "rank": r, "copy": c, "copy_stderr": 0.01, "mass": c}
        for h, r, c in ((1, 1, 0.75), (0, 2, 0.25))
    ]
    cuts = [cut("none", 0, 1.0), *(cut("top", k, 0.1) for k in (1, 2)), cut("random", 1, 0.9)]
    result = looked("retrieval-heads", "drop", {"heads": heads, "cuts": cuts})
    result = with_metrics(result, drop=(0.6, 0.05), before=(1.0, 0.0))
    text, (best, drop) = drawn(tmp_path, result)
    assert re.findall(r'fill-opacity="([\d.]+)"', text) == ["0.250", "0.750"]  # in the heads' order
    assert "layer 2 (attention), head 1: on 0.750 ± 0.024 of their tokens" in best
    assert drop.startswith("Cutting the best 2 heads costs 0.60 ± 0.12 more of the recall")
    assert "nothing cut" in text
    assert "1 head cut, as many heads at random: 0.90 ± 0.24" in text


def test_repeats_beside_other_tokens(tmp_path):
    def row(**fields):
        return {"loss_stderr": 0.1, "n_tokens": 50, "n": 8} | fields

    tables = {
        "by_kind": [row(tokens=t, loss=2.0) for t in ("repeat", "other", "latest")],
        "by_distance": [row(start=1, end=2, loss=0.5), row(start=2, end=4, loss=1.5)],
    }
    clear = with_metrics(looked("repeats", "repeat", tables), repeat=(1.0, 0.1), other=(2.0, 0.1))
    text, (said,) = drawn(tmp_path, clear)
    assert said == (
        "Tokens that repeat a bigram of their context cost 1.00 ± 0.24 nats, 1.00 ± 0.33 less "
        "than all others."
    )
    assert "2 to 3 tokens back: 1.50 ± 0.24 nats" in text
    assert text.index("of these: as the last time") < text.index("all other tokens")
    assert "other tokens" in text
    unclear = with_metrics(looked("repeats", "repeat", tables), repeat=(1.8, 0.1), other=(2.0, 0.1))
    assert drawn(tmp_path / "b", unclear)[1] == []


def test_curves_keep_intervals_of_shares_between_0_and_1():
    marks = (Mark(1.0, 0.9, 0.3, "one"), Mark(4.0, 0.5, float("inf"), "four"))
    figure = curves([Curve(0, marks)], "x", "y", title="t", bounds=(0.0, 1.0)) or ""
    at = {t: float(y) for t, y in re.findall(r'data-tip="(\w+)"[^>]*d="M[\d.]+ ([\d.]+)a', figure)}
    ((low, high),) = re.findall(r'class="error[^"]*" d="M[\d.]+ ([\d.]+)V([\d.]+)M', figure)
    share = (at["four"] - at["one"]) / 0.4
    assert float(low) == pytest.approx(at["one"] + 0.3 * share, abs=0.2)
    assert float(high) == pytest.approx(at["one"] - 0.1 * share, abs=0.2)
    assert curves([], "x", "y", title="t") is None


def test_a_levels_word_stands_where_no_mark_is():
    marks = tuple(Mark(x, 0.5, 0.1, "m") for x in (1.0, 2.0, 32.0, 64.0))
    figure = curves([Curve(0, marks)], "x", "y", title="t", levels=[(0.5, "level")]) or ""
    ((word,),) = [re.findall(r'<text x="([\d.]+)"[^>]*class="note">level<', figure)]
    places = [float(x) + 4.2 for x in re.findall(r'data-tip="m"[^>]*d="M([\d.]+)', figure)]
    assert float(word) == pytest.approx((places[1] + places[2]) / 2, abs=0.2)


def test_lines_of_shares_end_where_shares_do():
    rows = [Strip("a", 0, (Dot(0.5, "half", 0.25, 1.5), Dot(0.0, "none"), Dot(1.0, "all")))]
    figure = strips(rows, "x", title="t", is_log=False, bounds=(0.0, 1.0)) or ""
    at = {t: float(x) for t, x in re.findall(r'data-tip="(\w+)"[^>]*d="M([\d.]+)', figure)}
    ((low, high),) = re.findall(r'class="error[^"]*" d="M([\d.]+) [\d.]+H([\d.]+)', figure)
    assert float(high) == pytest.approx(at["all"] + 3.6, abs=0.2)
    assert float(low) == pytest.approx(0.75 * at["none"] + 0.25 * at["all"] + 3.6, abs=0.2)


def test_tiny_numbers_are_powers_of_ten():
    assert told(7.36e-11, 2.2e-11, 8) == "7.36e−11 ± 5.2e−11"


def test_what_was_read_is_said():
    about = {"inputs": {"n_documents": 16, "longest": 4096, "task": "recall"}, "layers": [0, 2]}
    result = {"analysis": about, "is_extrapolated": True, "step": 1200}
    assert what_was_read(result) == (
        "16 prompts of up to 4,096 tokens, longer than in training, layers 0, 2 only, step 1,200."
    )
    assert what_was_read({"analysis": None}) == ""


def test_findings_of_several_kinds_of_documents_have_a_paragraph_each(tmp_path):
    text = exchanged(0.002, 0.001, 0.001)
    task = exchanged(0.9, 0.9, 0.0) | {"name": "surgery.recall"}
    task["analysis"] = {"instrument": "surgery", "inputs": {"task": "recall"}}
    page, said = drawn(tmp_path, text, task)
    assert any(sentence.endswith("(task recall).") for sentence in said)
    paragraphs = re.findall(r'<p class="findings">(.*?)</p>', page)
    assert [p.split(":")[0] for p in paragraphs] == ["Of held-out documents", "Of task recall"]
    assert "nats of the log odds" in paragraphs[0]
    assert "of the probability" in paragraphs[1]


def test_a_report_shows_arms_side_by_side_on_the_same_documents(tmp_path):
    def found(half, digest):
        inputs = {"digest": digest}
        result = looked("memory-length", "half_life", {"heads": []}, inputs=inputs)
        result["metrics"] = {"half_life": measured(half, 0.1, "tokens", 8)}
        return result

    for name, half, digest in (("a", 2.0, "x"), ("b", 50.0, "x"), ("c", 7.0, "y")):
        write_run(tmp_path / name / "seed-0", config("M-"), results=[found(half, digest)])
    write_study(tmp_path, ["a", "b", "c"])
    page = checked(report.build([tmp_path], tmp_path / "r.html"))
    table = page.split("Analyses side by side")[1].split("</table>")[0]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", table) == ["2.00 ± 0.24", "50.00 ± 0.24", "–"]
    assert "half-life of a recurrence, mean (tokens)" in table
    one = checked(report.build([tmp_path / "a" / "seed-0"], tmp_path / "one.html"))
    assert "side by side" not in one.lower()


def test_every_compared_number_is_one_that_its_instrument_gives():
    for name, picture in PICTURES.items():
        assert name in COMPARED, f"{name} has a picture ({picture.name}) and no row"
    assert all(name in PICTURES for name in COMPARED)

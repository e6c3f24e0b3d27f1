"""Paired comparison against sums done by hand and against repeated experiments."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from braidlm import report
from braidlm.errors import InputError
from braidlm.items import write_items
from braidlm.report.pairs import Scores, pair, scores
from braidlm.report.stats import t95

from .making import config, mqar, write_run


def _arm(*seeds: list[float], groups: str = "") -> list[Scores]:
    kinds = dict(enumerate(groups)) if groups else {}
    ids = [str(i) for i in range(len(seeds[0]))]
    of = {i: kinds.get(int(i), "") for i in ids}
    return [Scores(dict(zip(ids, values, strict=True)), of) for values in seeds]


def test_one_seed_a_side_is_the_paired_t_interval():
    found = pair(_arm([1, 0, 1, 1]), _arm([0, 0, 1, 0]))
    assert found is not None
    gaps = np.array([1, 0, 0, 1])
    error = gaps.std(ddof=1) / 2
    assert found.difference.value == 0.5
    assert found.item_stderr == pytest.approx(error)
    assert found.degrees == pytest.approx(3)
    assert found.difference.half_width == pytest.approx(3.182 * error)
    assert (found.wins, found.ties, found.losses, found.n_items) == (2, 2, 0, 4)
    assert found.seed_stderrs == (None, None)


def test_pairing_takes_the_difficulty_of_items_out():
    hard = np.random.default_rng(0).normal(0, 10, 50)
    noise = np.random.default_rng(1).normal(0, 0.1, 50)
    found = pair(_arm(list(hard + 0.2 + noise)), _arm(list(hard)))
    assert found is not None
    assert found.item_stderr == pytest.approx(noise.std(ddof=1) / math.sqrt(50))
    assert not found.difference.is_within_error


def test_kinds_of_items_count_the_same_and_add_no_variance():
    """Kind a is won by 1 on both items, kind b lost by 1 on all four: nothing varies inside."""
    found = pair(
        _arm([1, 1, 0, 0, 0, 0], groups="aabbbb"), _arm([0, 0, 1, 1, 1, 1], groups="aabbbb")
    )
    assert found is not None
    assert found.difference.value == pytest.approx(0)
    assert found.item_stderr == 0
    assert pair(_arm([1, 1], groups="ab"), _arm([0, 1], groups="ab")) is None


def test_items_of_one_document_count_as_one_draw():
    """Four documents asked at two lengths alike: the error is that of four, not of eight."""
    four = pair(_arm([1, 0, 1, 1]), _arm([0, 0, 1, 0]))
    a, b = [1.0, 0, 1, 1] * 2, [0.0, 0, 1, 0] * 2
    of = {str(i): str(i % 4) for i in range(8)}
    arms = [[replace(s, clusters=of) for s in _arm(v, groups="aaaabbbb")] for v in (a, b)]
    eight = pair(arms[0], arms[1])
    assert four is not None
    assert eight is not None
    assert eight.item_stderr == pytest.approx(four.item_stderr)
    assert (eight.degrees, eight.n_items) == (pytest.approx(3), 8)
    assert eight.difference.half_width == pytest.approx(four.difference.half_width)
    apart = pair(_arm(a, groups="aaaabbbb"), _arm(b, groups="aaaabbbb"))
    assert apart is not None
    assert apart.item_stderr == pytest.approx(four.item_stderr / math.sqrt(2))
    assert pair(arms[0], _arm(b, groups="aaaabbbb")) is None
    alone = [[replace(s, clusters=dict.fromkeys(of, "x")) for s in arm] for arm in arms]
    assert pair(alone[0], alone[1]) is None


def test_two_way_clustering_by_hand():
    """Two seeds a side, three items; each part from its own definition."""
    a, b = np.array([[1, 2, 6], [2, 4, 7.0]]), np.array([[0, 1, 2], [1, 2, 4.0]])
    found = pair(_arm(*map(list, a)), _arm(*map(list, b)))
    assert found is not None
    gaps = a.mean(0) - b.mean(0)
    items = gaps.var(ddof=1) / 3
    seeds = [arm.mean(1).var(ddof=1) / 2 for arm in (a, b)]
    both = 0.0
    for arm in (a, b):
        rest = arm - arm.mean(0) - arm.mean(1, keepdims=True) + arm.mean()
        both += (rest**2).sum() / ((3 - 1) * (2 - 1)) / (3 * 2)
    variance = items + sum(seeds) - both
    assert max(items, sum(seeds)) < variance < items + sum(seeds)
    degrees = (items + sum(seeds)) ** 2 / (items**2 / 2 + sum(s**2 for s in seeds))
    assert found.item_stderr == pytest.approx(math.sqrt(items))
    assert found.seed_stderrs == pytest.approx([math.sqrt(s) for s in seeds])
    assert found.degrees == pytest.approx(degrees)
    assert found.difference.value == pytest.approx(a.mean() - b.mean())
    assert found.difference.half_width == pytest.approx(t95(degrees) * math.sqrt(variance))


def test_intervals_cover_the_truth():
    """Items, seeds and their luck together are all drawn anew; the true difference is zero."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(300):
        hard, arms = rng.normal(0, 3, 40), []
        for _ in range(2):
            of_arm = rng.normal(0, 1, 40)
            seeds = hard + of_arm + rng.normal(0, 0.3, (3, 1)) + rng.normal(0, 1, (3, 40))
            arms.append(_arm(*map(list, seeds)))
        found = pair(*arms)
        assert found is not None
        covered += found.difference.is_within_error
    assert 0.93 < covered / 300 < 0.99


def test_other_items_are_not_paired():
    assert pair(_arm([1, 2, 3]), _arm([1, 2])) is None
    assert pair(_arm([1, 2], groups="aa"), _arm([1, 2], groups="ab")) is None
    assert pair([], _arm([1, 2])) is None


def _written(folder, rows, **columns) -> dict:
    about = write_items(folder / "x-y.items.jsonl", rows)
    return {"kind": "x", "name": "y", "items": about | {"columns": columns}}


def test_a_ratio_becomes_linear_parts_with_its_own_error(tmp_path):
    """sum(y) / sum(x) over documents; the delta method's error is that of the parts' mean."""
    y, x = np.array([3.0, 1.0, 8.0]), np.array([2.0, 1.0, 5.0])
    rows = [{"id": i, "bits": y[i], "n": x[i]} for i in range(3)]
    result = _written(tmp_path, rows, bpb={"value": "bits", "over": "n"})
    parts = np.array(list(scores(tmp_path, result, "bpb").values.values()))
    r = y.sum() / x.sum()
    delta = math.sqrt(3 / 2 * ((y - r * x) ** 2).sum()) / x.sum()
    assert parts.mean() == pytest.approx(r)
    assert parts.std(ddof=1) / math.sqrt(3) == pytest.approx(delta)


def test_what_is_not_kept_by_item_is_named(tmp_path):
    result = _written(tmp_path, [{"id": "a", "s": None}], s={"value": "s", "over": None})
    with pytest.raises(InputError, match="x-y: no 'other' by item"):
        scores(tmp_path, result, "other")
    with pytest.raises(InputError, match="item 'a': s = None is no finite number"):
        scores(tmp_path, result, "s")
    twins = _written(tmp_path, [{"id": "a", "s": 1}, {"id": "a", "s": 2}], s={"value": "s"})
    with pytest.raises(InputError, match="x-y: two items have one name"):
        scores(tmp_path, twins, "s")
    with pytest.raises(InputError, match=r"x-y\.json has no items"):
        scores(tmp_path, {"kind": "x", "name": "y"}, "s")


def asked_run(path, name, hits, *, seed=0, task="same", accuracy=None):
    """A run with a recall result whose items have these accuracies, and its items."""
    rows = [{"id": f"4/{i}", "group": "4", "accuracy": hit} for i, hit in enumerate(hits)]
    found = mqar(float(np.mean(hits)) if accuracy is None else accuracy, task={"items": task})
    write_run(path, config(name=name, seed=seed), results=[])
    about = write_items(path / "results" / "mqar-recall.items.jsonl", rows)
    found |= {"items": about | {"columns": {"accuracy": {"value": "accuracy", "over": None}}}}
    (path / "results" / "mqar-recall.json").write_text(json.dumps(found))
    return path


def test_the_report_pairs_recall_item_by_item(tmp_path):
    hits = np.random.default_rng(0).random(100).round(2)
    better = (hits + 0.01).round(2)
    better[:10] += 0.01
    runs = [
        asked_run(tmp_path / "a", "a", list(better)),
        asked_run(tmp_path / "b", "b", list(hits)),
    ]
    gap = report.tables(runs)["leads"]["mqar-recall.accuracy"]["others"]["b"]
    assert gap["is_paired"]
    assert not gap["is_within_error"]
    assert gap["value"] == pytest.approx(0.011)
    other = asked_run(tmp_path / "c", "c", list(hits), task="another")
    gap = report.tables([runs[0], other])["leads"]["mqar-recall.accuracy"]["others"]["c"]
    assert not gap["is_paired"]
    (runs[1] / "results" / "mqar-recall.items.jsonl").write_text("")
    gap = report.tables(runs)["leads"]["mqar-recall.accuracy"]["others"]["b"]
    assert not gap["is_paired"]

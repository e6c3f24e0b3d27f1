import math
import re

import pytest

from braidlm.report import svg
from braidlm.report.placing import place_labels
from braidlm.report.plots import BOTTOM, TOP, frontier


def test_linear_scale_maps_ends_and_middle():
    scale = svg.Scale(2.0, 4.0, 100.0, 20.0)
    assert (scale(2.0), scale(3.0), scale(4.0)) == (100.0, 60.0, 20.0)


def test_log_scale_maps_by_ratio_and_zero_to_the_low_end():
    scale = svg.Scale(1.0, 100.0, 0.0, 200.0, is_log=True)
    assert scale(10.0) == pytest.approx(100.0)
    assert scale(0.0) == 0.0
    assert scale(-5.0) == 0.0


def test_scale_leaves_out_what_a_log_axis_cannot_hold():
    scale = svg.scale([0.0, math.nan, 10.0, 1000.0], 0.0, 1.0, is_log=True, pad=0.0)
    assert (scale.low, scale.high) == (10.0, 1000.0)


@pytest.mark.parametrize("values", [[], [math.nan], [3.0], [0.0, 0.0], [-2.0]])
@pytest.mark.parametrize("is_log", [False, True])
def test_degenerate_data_still_gives_a_range_and_ticks(values, is_log):
    scale = svg.scale(values, 0.0, 100.0, is_log=is_log)
    assert scale.low < scale.high
    assert all(math.isfinite(scale(tick)) for tick in scale.ticks())


def test_ticks_are_round_and_inside():
    assert svg.Scale(0.0, 1.0, 0, 1).ticks() == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert svg.Scale(1.0, 2000.0, 0, 1, is_log=True).ticks() == [1.0, 10.0, 100.0, 1000.0]
    assert svg.Scale(3.0, 30.0, 0, 1, is_log=True).ticks() == [5.0, 10.0, 20.0]


def test_byte_ticks_are_powers_of_two_and_few():
    assert svg.byte_ticks(1000.0, 9000.0) == [1024.0, 2048.0, 4096.0, 8192.0]
    assert len(svg.byte_ticks(1.0, 2.0**40)) <= 6


def test_line_band_and_error_bar_hold_their_coordinates():
    assert 'd="M0 1L2.5 3"' in svg.line([(0, 1), (2.5, 3)], 0)
    assert svg.line([(0, 1)], 0) == ""
    assert 'd="M0 1L2 1L2 5L0 5Z"' in svg.band([(0, 1), (2, 1)], [(0, 5), (2, 5)], 0)
    assert "M10 30V50" in svg.error_bar(10, 30, 50, 0)


def test_colours_and_marks_tell_35_arms_apart():
    marks = {(svg.style_of(i), svg.marker(0, 0, i)) for i in range(35)}
    assert len(marks) == 35


def test_text_and_tips_are_escaped():
    assert "&lt;b&gt;" in svg.text(0, 0, "<b>")
    assert '"a&quot;b"' in svg.marker(0, 0, 0, tip='a"b')


def _boxes(drawn, words):
    out = []
    for one, word in zip(drawn, words, strict=True):
        found = re.search(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)"', one)
        assert found
        x, y, width = float(found[1]), float(found[2]), len(word) * svg.CHAR_WIDTH
        left = x - {"start": 0, "middle": width / 2, "end": width}[found[3]]
        out.append((left, y - 11, left + width, y + 4))
    return out


def test_labels_of_near_points_do_not_overlap_and_stay_inside():
    frame = (60.0, 10.0, 480.0, 280.0)
    points = [(300.0, 60.0), (304.0, 66.0), (470.0, 60.0), (310.0, 58.0)]
    words = ["Interleaved", "Parallel", "Transformer", "Mamba-2"]
    bars = [(x, y - 8, y + 8) for x, y in points]
    boxes = _boxes(place_labels(points, words, bars, frame), words)
    for i, a in enumerate(boxes):
        assert a[0] >= frame[0] - 1
        assert a[2] <= frame[2] + 1
        for b in boxes[i + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_labels_at_the_lower_edge_stay_above_the_axis():
    caches = {
        "Transformer": 4.00,
        "Mamba-2": 0.02,
        "Sequential hybrid": 2.01,
        "Parallel hybrid, normed mean": 4.02,
        "Parallel hybrid, cross-attention": 8.02,
    }
    recall = {"mean": 0.0, "seed_stderr": None, "item_stderr": 0.081, "n_seeds": 1, "n_items": 12}
    rows = [
        {"arm": name, "cache_bytes": size * 2**20, "recall": {**recall, "values": (0.0,)}}
        for name, size in caches.items()
    ]
    drawn = frontier(rows, list(caches), {name: name for name in caches})
    assert drawn is not None
    places = re.findall(r'<text x="[\d.]+" y="([\d.]+)" text-anchor="\w+" class="label"', drawn)
    assert len(places) == len(caches)
    assert all(TOP < float(y) <= BOTTOM - 3 for y in places)

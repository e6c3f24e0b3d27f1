"""A report opens from disk, offline and without complaint, on a phone and on a desk."""

import pytest

from braidlm.report.paraphrases import build
from tests.browser.measuring import REPORTS, UNFOLD, ask, texts
from tests.browser.test_reading import CUT
from tests.report.test_paraphrases import folder_of

WIDTHS = pytest.mark.parametrize("width", [400, 1400])
BOXES = """parts => parts.map((part) => {
  const box = part.getBoundingClientRect();
  return [part.getAttribute('aria-label'), box.left, box.right, box.width, box.height];
})"""


@REPORTS
def test_it_asks_for_no_file_but_itself_and_complains_of_nothing(opened, reports, name):
    page, requests, complaints = opened(name)
    page.evaluate(UNFOLD)
    for button in page.query_selector_all("button")[:20]:
        button.click()
    assert page.title().endswith("BraidLM report")
    assert requests == [reports[name].as_uri()]
    assert complaints == []


@WIDTHS
@REPORTS
def test_every_figure_is_seen_whole(opened, name, width):
    page = opened(name, width=width).page
    figures = page.eval_on_selector_all("figure svg.plot, figure svg.layers", BOXES)
    seen = [figure for figure in figures if figure[3]]
    hidden = [figure[0] for figure in figures if not figure[3]]
    assert hidden == ["Training step"]  # the second view of the loss
    n_arms = page.locator("#arms tbody tr").count()
    assert len(seen) == 5 + n_arms
    for label, left, right, box_width, height in seen:
        assert box_width >= 100, label
        assert height >= 60, label
        assert left >= 0, label
        assert right <= width, label


@WIDTHS
@REPORTS
def test_the_page_never_scrolls_sideways(opened, name, width):
    page = opened(name, width=width).page
    page.evaluate(UNFOLD)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    assert ask(page, "outside") == []


@WIDTHS
def test_no_text_is_too_small_to_read(opened, width):
    page = opened(width=width).page
    small = {text["text"]: text["size"] for text in texts(page) if text["size"] < 9}
    assert small == {}


@REPORTS
def test_the_second_half_of_the_loss_takes_the_place_of_the_whole(opened, name):
    page = opened(name).page
    page.get_by_label("the second half").check()
    assert page.locator("figure .tail svg.plot").first.bounding_box()["height"] > 60
    assert not page.locator("figure .whole").is_visible()


def test_a_phone_sees_every_column_of_the_table_by_scrolling_its_box(opened):
    page = opened("crowded", width=400).page
    box = page.locator("#arms .scroll")
    last = page.locator("#arms thead th").last
    assert last.bounding_box()["x"] > 400
    box.evaluate("box => { box.scrollLeft = box.scrollWidth; }")
    found = last.bounding_box()
    assert found["x"] >= 0
    assert found["x"] + found["width"] <= 400


def test_a_phone_shows_text_and_paraphrase_one_below_the_other(browser, tmp_path):
    """Both columns of a wide screen, each as wide as the phone, and nothing to be scrolled."""
    words = "On 5 May 1990 the old bridge over the river was opened to carts and carriages. "
    places = {}
    for width in (1400, 390):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto(build(folder_of(tmp_path, [(words * 3, words[::-1] * 3)])).as_uri())
        boxes = [page.locator(".beside tbody td").nth(i).bounding_box() for i in (0, 1)]
        places[width] = [(round(box["x"]), round(box["y"])) for box in boxes]
        assert page.eval_on_selector_all(".scroll", CUT) == []
        page.close()
    (left, top), (right, also) = places[1400]
    assert left < right
    assert top == also
    (left, above), (also_left, below) = places[390]
    assert left == also_left
    assert above < below

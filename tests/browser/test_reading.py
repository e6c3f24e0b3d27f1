"""Readable in both colour schemes, on paper, without motion and without scripts."""

import pytest

from tests.browser.measuring import REPORTS, UNFOLD, ask, contrast, texts

UNSEEN = """parts => parts.filter((part) => {
  const box = part.getBoundingClientRect();
  return !part.checkVisibility() || !box.width || !box.height;
}).map((part) => part.outerHTML.slice(0, 90))"""
CUT = """parts => parts.filter((part) =>
  part.scrollWidth > part.clientWidth + 1 || part.scrollHeight > part.clientHeight + 1
).map((part) => part.outerHTML.slice(0, 90))"""


def faint(found):
    """Texts whose contrast is below WCAG's 4.5, by what they say."""
    contrasts = {text["text"][:40]: contrast(text["ink"], text["paper"]) for text in found}
    return {text: round(value, 2) for text, value in contrasts.items() if value < 4.5}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("name", "width"), [("real", 400), pytest.param("crowded", 1400, marks=pytest.mark.slow)]
)
def test_every_text_stands_out_from_what_is_behind_it(opened, name, scheme, width):
    page = opened(name, color_scheme=scheme, width=width).page
    page.evaluate(UNFOLD)
    page.get_by_label("the second half").check()
    page.locator("svg [data-tip][tabindex='0']").first.focus()
    found = texts(page)
    assert len(found) > 200
    assert {"Arms", "MLP", "norm, head"} <= {text["text"] for text in found}
    assert faint(found) == {}


@REPORTS
def test_dark_is_dark(opened, name):
    paper = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    assert max(opened(name, color_scheme="dark").page.evaluate(paper)) < 60
    assert min(opened(name, color_scheme="light").page.evaluate(paper)) > 200


@pytest.mark.parametrize("scheme", ["light", "dark"])
@REPORTS
def test_paper_shows_everything_that_the_screen_can(opened, name, scheme):
    """A4 with margins of 1 cm is 718 CSS pixels wide; what leaves it sideways would be cut off."""
    page = opened(name, width=718, color_scheme=scheme).page
    page.emulate_media(media="print")
    parts = "details > :not(summary), figure svg, pre, td, th, .warn"
    assert page.eval_on_selector_all(parts, UNSEEN) == []
    assert ask(page, "outside") == []
    assert page.eval_on_selector_all(".scroll, pre", CUT) == []
    found = texts(page)
    assert faint(found) == {}
    assert {tuple(text["paper"]) for text in found if text["text"] == "Arms"} == {(255, 255, 255)}
    assert page.pdf(format="A4").startswith(b"%PDF-")


def test_nothing_moves_by_itself(opened):
    page = opened(reduced_motion="reduce").page
    page.evaluate(UNFOLD)
    page.locator("svg [data-tip][tabindex='0']").first.focus()
    moving = """[...document.querySelectorAll('*')].filter((part) => {
      const style = getComputedStyle(part);
      return [style.transitionDuration, style.animationDuration].some((t) => /[1-9]/.test(t))
        || style.scrollBehavior === 'smooth';
    }).map((part) => part.outerHTML.slice(0, 60))"""
    assert page.evaluate(moving) == []
    assert page.evaluate("document.getAnimations().length") == 0


@REPORTS
def test_without_scripts_the_page_says_the_same(opened, name):
    whole = opened(name).page
    bare = opened(name, java_script_enabled=False).page
    for page in (whole, bare):
        page.evaluate(UNFOLD)
    words = [page.locator("main").inner_text().split() for page in (whole, bare)]
    hint = ["press", "an", "arm", "to", "dim", "the", "others"]
    assert set(hint) <= set(words[0])
    start = next(i for i in range(len(words[0])) if words[0][i : i + len(hint)] == hint)
    del words[0][start : start + len(hint)]  # a promise that only a script can keep
    assert words[1] == words[0]
    bare.get_by_label("the second half").check()
    assert bare.locator("figure .tail svg.plot").first.bounding_box()["height"] > 60
    assert bare.locator("figure svg.plot").count() == whole.locator("figure svg.plot").count()

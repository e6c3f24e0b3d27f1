"""Everything is reached by Tab, shows that it has the focus, and can be left again."""

import pytest

from tests.browser.measuring import ask, contrast

TWO_FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


@pytest.mark.parametrize(
    ("name", "key", "scheme"),
    [
        ("real", "Tab", "dark"),
        ("real", "Shift+Tab", "light"),
        pytest.param("crowded", "Shift+Tab", "dark", marks=pytest.mark.slow),
    ],
)
def test_tab_reaches_everything_in_order_and_the_focus_is_seen(opened, name, key, scheme):
    page = opened(name, color_scheme=scheme).page
    n_stops = ask(page, "stops")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)")
    order = list(range(n_stops))
    if key == "Shift+Tab":
        page.locator(f'[data-stop="{n_stops - 1}"]').focus()
        page.keyboard.press("Tab")  # beyond the last one, from where the way back begins
        order.reverse()
    for number in order:
        page.keyboard.press(key)
        found = ask(page, "focused")
        assert found["stop"] == number, found
        assert found["outline"] >= 2, found
        assert contrast(found["colour"], [float(part) for part in paper]) >= 3, found
        assert found["on_screen"], found
        assert found["on_top"], found


def test_the_first_stop_leads_past_the_text(opened):
    page = opened().page
    page.keyboard.press("Tab")
    link = page.locator("a.skip")
    box = link.bounding_box()
    assert box["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#arms"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#arms') !== null")


def test_a_mark_tells_its_numbers_on_focus_until_escape(opened):
    page = opened().page
    mark = page.locator("svg [data-tip][tabindex='0']").first
    tip = page.locator("#tip")
    assert not tip.is_visible()
    mark.focus()
    assert tip.is_visible()
    assert tip.inner_text() == mark.get_attribute("data-tip")
    assert "KiB" in tip.inner_text() or "MiB" in tip.inner_text()
    page.keyboard.press("Escape")
    assert not tip.is_visible()


def test_a_tip_follows_the_pointer_and_stays_on_the_screen(opened):
    page = opened(width=400).page
    for mark in page.locator("svg.plot [data-tip]").all():
        mark.scroll_into_view_if_needed()
        page.evaluate(TWO_FRAMES)  # by then the page has told its scripts that it scrolled
        mark.hover()
        box = page.locator("#tip").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 400
        assert 0 <= box["y"] <= 900 - box["height"]
    page.mouse.move(1, 1)
    assert not page.locator("#tip").is_visible()


def test_the_legend_dims_the_other_arms_and_lets_them_go(opened):
    page = opened().page
    button = page.locator(".legend button").first
    opacity = "part => Number(getComputedStyle(part).opacity)"
    ours, theirs = (page.locator(f"svg.plot g[data-arm='{i}']").first for i in (0, 1))
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    assert [ours.evaluate(opacity), theirs.evaluate(opacity)] == [1, pytest.approx(0.14)]
    page.keyboard.press("Space")
    assert button.get_attribute("aria-pressed") == "false"
    assert theirs.evaluate(opacity) == 1


def test_what_is_folded_opens_and_closes_by_keyboard(opened):
    page = opened().page
    for summary in page.locator("summary").all():
        inside = summary.locator("xpath=following-sibling::*").first
        summary.focus()
        page.keyboard.press("Enter")
        assert inside.is_visible()
        page.keyboard.press("Space")
        assert not inside.is_visible()


def test_the_two_views_of_the_loss_change_by_arrow(opened):
    page = opened().page
    page.get_by_label("the whole run").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_label("the second half").is_checked()

"""The table of arms is sorted by what it shows, by pointer and by keyboard, in both directions."""

import pytest

from braidlm.report import tables
from tests.browser.measuring import column, first_column

COLUMNS = ["label", "pattern", "n_params", "training_flops", "cache_bytes"]


@pytest.fixture
def arms(reports):
    """The numbers of the crowded report, from which its table was made."""
    return tables([reports["crowded"].parent / "study"])["arms"]


def by_label(arms, key, *, is_descending=False):
    return [arm["label"] for arm in sorted(arms, key=lambda arm: arm[key], reverse=is_descending)]


@pytest.mark.parametrize("key", COLUMNS[2:])
def test_numbers_are_sorted_as_numbers_both_ways(opened, arms, key):
    page = opened("crowded").page
    head = page.locator("#arms thead button").nth(COLUMNS.index(key))
    values = [arm[key] for arm in arms]
    assert sorted(values) != sorted(values, key=str)  # else words would do as well
    for is_descending in (False, True, False):
        head.click()
        found = [next(a[key] for a in arms if a["label"] == name) for name in first_column(page)]
        assert found == sorted(values, reverse=is_descending)


def test_a_result_is_sorted_best_first_and_a_missing_one_stays_last(opened, arms):
    page = opened("crowded").page
    shown = [float(text.rstrip("†")) for text in column(page, 5)]
    assert sorted(shown) != sorted(shown, key=str)
    page.locator("#arms tbody tr").nth(2).locator("td").nth(4).evaluate(
        "cell => { cell.dataset.value = ''; cell.textContent = '–'; }"
    )
    kept = sorted(shown[:2] + shown[3:])
    head = page.locator("#arms thead button").nth(5)
    for expected in (kept, kept[::-1]):
        head.click()
        *found, last = column(page, 5)
        assert [float(text.rstrip("†")) for text in found] == expected
        assert last == "–"
    recall = page.locator("#arms thead button").nth(6)
    recall.click()
    found = [float(text.rstrip("†")) for text in column(page, 6)]
    assert found == sorted(found, reverse=True)


def test_names_are_sorted_with_their_numbers_as_numbers(opened, arms):
    page = opened("crowded").page
    page.locator("#arms thead button").nth(3).click()
    page.locator("#arms thead button").first.click()
    found = [name.split()[1] for name in first_column(page)]
    assert found == [str(number) for number in range(len(arms))]
    page.locator("#arms thead button").first.click()
    assert [name.split()[1] for name in first_column(page)] == found[::-1]


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_the_keyboard_sorts_too_and_the_order_is_told(opened, arms, key):
    page = opened("crowded").page
    head = page.locator("#arms thead button").nth(2)
    head.focus()
    for order, is_descending in (("ascending", False), ("descending", True)):
        page.keyboard.press(key)
        numbers = [next(a["n_params"] for a in arms if a["label"] == n) for n in first_column(page)]
        assert numbers == sorted(numbers, reverse=is_descending)
        assert page.locator("#arms th[aria-sort]").count() == 1
        assert page.locator("#arms thead th").nth(2).get_attribute("aria-sort") == order
        assert head.evaluate("head => head === document.activeElement")


def test_a_long_title_makes_no_wide_column(opened):
    head = opened("real").page.locator("#arms thead th").last
    width = head.evaluate("""head => {
      const title = head.querySelector('span').firstChild;
      title.textContent = 'recall from weights (facts_from_weights, new forms)';
      return head.getBoundingClientRect().width;
    }""")
    assert width < 250

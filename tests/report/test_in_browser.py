"""The report in a real browser: its width, its console messages, and the descriptions of candidates."""

from __future__ import annotations

import pytest
from browser import DESK, PHONE, browser, chromium
from test_page import _contents

from nas.report.page import render

pytestmark = pytest.mark.skipif(chromium() is None, reason="there is no Chromium on the PATH")
TIP = "document.querySelector('#tip:not([hidden])')?.textContent"


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A tab of a browser, and the path of a report that tests open in it."""
    folder = tmp_path_factory.mktemp("browser")
    path = folder / "report.html"
    path.write_text(render(_contents()), encoding="utf-8")
    with browser(folder / "profile") as page:
        yield page, path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, (700, 900), DESK], ids=str)
def test_the_page_fits_the_window_and_has_no_console_messages(opened, size, scheme):
    page, path = opened
    page.open(path, size, scheme)
    assert page.value("document.documentElement.scrollWidth") <= size[0]
    assert not page.problems
    dark = page.value("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")


def test_the_printed_page_is_white_and_fits_the_paper(opened):
    page, path = opened
    page.open(path, (688, 1000), "dark", media="print")  # A4 within its margins
    assert page.value("document.documentElement.scrollWidth") <= 688
    assert page.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


@pytest.mark.parametrize("size", [PHONE, DESK], ids=str)
def test_hovering_a_candidate_shows_its_architecture(opened, size):
    page, path = opened
    page.open(path, size)
    assert page.value(TIP) is None
    page.hover("circle.best")
    assert "layer 0: " in page.value(TIP) and "predicted" in page.value(TIP)
    assert page.value("document.querySelector('#tip').getBoundingClientRect().right <= innerWidth")
    page.press("Escape")
    assert page.value(TIP) is None


def test_exports_can_be_reached_and_read_with_the_keyboard(opened):
    page, path = opened
    page.open(path)
    names = []
    for _ in range(page.value("document.querySelectorAll('[tabindex]').length")):
        page.press("Tab")
        names.append(page.value("document.activeElement.getAttribute('aria-label')"))
        assert page.value(TIP) == names[-1] and page.value("document.activeElement.getAttribute('role')") == "img"
    assert any("exported as half" in name for name in names)
    assert page.value("[...document.querySelectorAll('svg')].every(e => e.ariaHidden || e.ariaLabel)")

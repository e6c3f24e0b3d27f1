"""A headless Chromium, and two reports: of a small real study, and of everything that is too much.

Chromium is the system's own (`CHROMIUM` names another executable); nothing is downloaded. Without
one these tests are skipped, unless `BROWSER_REQUIRED` is set, as it is in CI.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from braidlm import report
from tests.browser.making import crowded_study, real_study

NAMES = ("chromium", "chromium-browser", "google-chrome")


class Opened(NamedTuple):
    """A page, every address that it asked for, and every warning or error that it gave."""

    page: Any
    requests: list[str]
    complaints: list[str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.browser)


def _executable() -> str:
    wanted = (os.environ["CHROMIUM"],) if os.environ.get("CHROMIUM") else NAMES
    return next((found for name in wanted if (found := shutil.which(name))), "")


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    path = _executable()
    if not path and not os.environ.get("BROWSER_REQUIRED"):
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed, CHROMIUM names none")
    assert path, f"none of {', '.join(NAMES)} is installed"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        launched = tools.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="package")
def reports(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The two reports by name, each beside its `study`; parallel workers make them once."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    found = {}
    with open(shared / "reports.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name, make in {"real": real_study, "crowded": crowded_study}.items():
            found[name] = shared / f"report-{name}" / "report.html"
            if not found[name].exists():
                found[name].parent.mkdir()
                report.build([make(found[name].parent)], found[name])
    return found


@pytest.fixture
def opened(browser: Any, reports: dict[str, Path]) -> Iterator[Callable[..., Opened]]:
    """Open a report by name in a fresh context without network; more words as Playwright's."""
    contexts = []

    def open_report(name: str = "real", *, width: int = 1400, **settings: Any) -> Opened:
        context = browser.new_context(viewport={"width": width, "height": 900}, **settings)
        contexts.append(context)
        context.set_offline(True)
        context.set_default_timeout(5000)
        seen = Opened(context.new_page(), [], [])
        context.on("request", lambda request: seen.requests.append(request.url))
        seen.page.on("console", lambda said: seen.complaints.append(f"{said.type}: {said.text}"))
        seen.page.on("pageerror", lambda error: seen.complaints.append(f"error: {error}"))
        seen.page.goto(reports[name].as_uri())
        return seen

    yield open_report
    for context in contexts:
        context.close()

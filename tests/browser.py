"""Chromium for the tests of pages and of their scripts.

They need a Chromium or Chrome: any on the path, or the one that the variable CHROMIUM names, and playwright.
Where either is missing the tests that use it are skipped, but the workflow on GitHub fails. conftest.py makes
the fixtures known to all tests; ``require()`` at the head of a file skips the whole file.
"""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OFF_THE_PATH = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
)
BROWSER = next(filter(None, (os.environ.get("CHROMIUM"), *map(shutil.which, NAMES + OFF_THE_PATH))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
STATIC = Path(__file__).resolve().parents[1] / "book" / "_static"


def require() -> None:
    """Skip the test, or the file whose import calls this, where no browser can be driven."""
    missing = [
        *(["no Chromium or Chrome"] if BROWSER is None else []),
        *(["no playwright"] if importlib.util.find_spec("playwright") is None else []),
    ]
    if missing and os.environ.get("GITHUB_ACTIONS"):
        pytest.fail(f"{missing[0]}, which the workflow must have", pytrace=False)
    if missing:
        pytest.skip(f"{missing[0]} on this machine: the pages go untested", allow_module_level=True)


@pytest.fixture(scope="module")
def chromium():
    """A headless browser for the tests of a file."""
    require()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def blank(chromium):
    """An empty page for scripts: ``blank.add_script_tag(path=STATIC / "play" / "sizes.js")``.

    ``play.load`` loads nothing; ``play.register`` keeps what is registered in ``play.made``.
    """
    page = chromium.new_page()
    page.add_script_tag(
        content="""window.play = {made: {}, load: async () => {},
                                   register: (name, make) => { play.made[name] = make; }};"""
    )
    yield page
    page.close()

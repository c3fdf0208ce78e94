"""Debian's `chromium`, or another Chromium on the PATH, driven by Playwright: what tests of pages need."""

import os
import shutil
from contextlib import contextmanager

import pytest

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0  # Chromium's sandbox refuses root


@contextmanager
def chromium():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if ROOT else [])
        yield browser
        browser.close()


@contextmanager
def opened(browser, **options):
    """A page; whatever it complains of fails the test."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    page = context.new_page()
    page.set_default_timeout(20_000)
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    yield page
    context.close()
    # Every answer that is not 200 is logged by the browser itself.
    assert not [fault for fault in faults if not fault.startswith("Failed to load resource")]

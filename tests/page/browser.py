"""Chromium with a page of `vidense serve`: what the tests of the page share.

Chromium is the one named by $VIDENSE_BROWSER, that of the system, or Playwright's own. Where Playwright, a browser or
axe-core is missing, tests are skipped with a message that says so.
"""

import json
import os
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "clients"))

from server import Server  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def launch(playwright):
    """A running Chromium, or a skip that says what is missing."""
    named = os.environ.get("VIDENSE_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    try:
        return playwright.chromium.launch(executable_path=named, args=["--no-sandbox"])
    except Exception as error:
        if named:
            raise
        raise unittest.SkipTest("no Chromium: install the package chromium, or set VIDENSE_BROWSER") from error


def axe_source():
    """The script of axe-core, or a skip."""
    try:
        import axe_playwright_python
    except ImportError as error:
        raise unittest.SkipTest("no axe-core: pip install axe-playwright-python") from error
    return next(Path(axe_playwright_python.__file__).parent.rglob("axe*.js")).read_text()


class PageCase(unittest.TestCase):
    """One server and one browser for all tests, a context for each; every request of a page is recorded."""

    binary = ROOT / "target" / "release" / "vidense"

    @classmethod
    def setUpClass(cls):
        try:
            from playwright.sync_api import sync_playwright
        except ImportError as error:
            raise unittest.SkipTest("no Playwright: pip install playwright") from error
        playwright = sync_playwright().start()
        cls.addClassCleanup(playwright.stop)
        cls.browser = launch(playwright)
        cls.addClassCleanup(cls.browser.close)
        cls.scratch = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.server = cls.enterClassContext(Server(cls.binary, "--model", "vidense-mini"))

    def open(self, server=None, **options):
        """A fresh page of a server; at the end of the test no request may have left it, and nothing may have thrown."""
        origin = (server or self.server).url
        context = self.browser.new_context(viewport={"width": 1280, "height": 800}, **options)
        self.addCleanup(context.close)
        page = context.new_page()
        page.set_default_timeout(20_000)
        self.requests, self.faults = [], []
        page.on("request", lambda request: self.requests.append(request))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda line: "Content Security Policy" in line.text and self.faults.append(line.text))
        self.response = page.goto(origin)
        self.origin = origin
        return page

    def tearDown(self):
        foreign = [r.url for r in self.requests if not r.url.startswith((self.origin + "/", "data:", "blob:"))]
        self.assertEqual(foreign, [], "requests that left the origin")
        self.assertEqual(self.faults, [], "errors of the page")

    def upload(self, page, *files):
        page.set_input_files("#file", [str(file) for file in files])
        page.wait_for_selector("#work:not([hidden])")

    def ask(self, page, question):
        """Asks with the keyboard; returns the element of the turn when its answer or its error is complete."""
        count = page.locator(".turn").count()
        page.get_by_label("Question", exact=True).fill(question)
        page.keyboard.press("Enter")
        turn = page.locator(".turn").nth(count)
        turn.locator("[aria-busy=false]").wait_for(state="attached")
        page.wait_for_selector("#send:not([hidden])")
        return turn

    def sent(self, path):
        """Bodies of the POST requests to a path, oldest first."""
        return [json.loads(r.post_data) for r in self.requests if r.method == "POST" and r.url == self.origin + path]

    def audit(self, page, source, state):
        page.evaluate(source)
        report = page.evaluate("(rules) => axe.run(document, { runOnly: rules })", RULES)
        found = [f"{v['id']}: {v['nodes'][0]['html'][:120]}" for v in report["violations"]]
        self.assertEqual(found, [], state)
        self.assertGreater(len(report["passes"]), 10, state)

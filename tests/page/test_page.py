"""The page of `vidense serve` in Chromium: upload, contact sheet, streamed answers, errors, keyboard, accessibility.

    python tests/page/test_page.py [--binary target/release/vidense] [unittest arguments]

    pip install playwright axe-playwright-python

Answers are those of vidense-mini, the model inside the binary, so the texts are exact.
"""

import argparse
import base64
import shutil
import sys
import unittest
import urllib.error
import urllib.request
from pathlib import Path

from browser import ROOT, PageCase, Server, axe_source

SAMPLE = ROOT / "samples" / "three_shapes.mp4"
KEY = "a-key-of-the-test"


class PageTest(PageCase):
    # ---- a conversation ----

    def test_a_video_is_uploaded_shown_and_asked_about(self):
        page = self.open()
        self.upload(page, SAMPLE)
        self.assertEqual(page.locator("#sheet img").count(), 8)
        self.assertIn("0.13 s", page.locator("#sheet li").first.inner_text())
        self.assertEqual(page.locator("#sheet button").nth(7).get_attribute("aria-label"), "Frame 33 at 2.06 s")
        turn = self.ask(page, "What color is the circle?")
        self.assertEqual(turn.locator(".answer").inner_text(), "purple")
        facts = turn.inner_text()
        for part in ("256 visual", "tokens generated", "8 frames", "prefill", "in all"):
            self.assertIn(part, facts)
        self.assertIn("of 1024 tokens of context", page.locator("#context").inner_text())

    def test_a_second_turn_carries_the_first(self):
        page = self.open()
        self.upload(page, SAMPLE)
        self.ask(page, "What color is the circle?")
        second = self.ask(page, "What pattern does the red cross have?")
        self.assertEqual(second.locator("[role=alert]").count(), 0, second.inner_text())
        self.assertNotEqual(second.locator(".answer").inner_text(), "")
        messages = self.sent("/v1/chat/completions")[-1]["messages"]
        self.assertEqual([m["role"] for m in messages], ["user", "assistant", "user"])
        self.assertTrue(messages[0]["content"][0]["video_url"]["url"].startswith("upload:"))
        self.assertEqual(messages[1]["content"], "purple")
        self.assertEqual(messages[2]["content"], "What pattern does the red cross have?")
        page.get_by_role("button", name="New conversation").click()
        self.assertEqual(page.locator(".turn").count(), 0)
        self.assertEqual(self.ask(page, "What color is the circle?").locator(".answer").inner_text(), "purple")
        self.assertEqual(len(self.sent("/v1/chat/completions")[-1]["messages"]), 1)

    def test_an_answer_appears_piece_by_piece(self):
        page = self.open()
        self.upload(page, SAMPLE)
        page.evaluate("""() => {
            window.pieces = 0;
            const ofAnswers = (change) => change.target.parentElement?.className === "answer";
            new MutationObserver((changes) => { window.pieces += changes.filter(ofAnswers).length; })
                .observe(document.querySelector("#turns"), { characterData: true, subtree: true });
        }""")
        answer = self.ask(page, "Describe this video in one sentence.").locator(".answer").inner_text()
        self.assertGreater(len(answer.split()), 2)
        self.assertGreater(page.evaluate("window.pieces"), 2)
        self.assertTrue(self.sent("/v1/chat/completions")[0]["stream"])
        self.assertEqual(page.locator("#spoken").inner_text(), f"Answer: {answer}")

    def test_an_answer_can_be_stopped(self):
        page = self.open()
        self.upload(page, SAMPLE)
        held = []
        page.route("**/v1/chat/completions", lambda route: held.append(route))
        page.get_by_label("Question", exact=True).fill("What color is the circle?")
        page.get_by_role("button", name="Ask").click()
        stop = page.get_by_role("button", name="Stop")
        stop.wait_for()
        self.assertTrue(stop.evaluate("(e) => e === document.activeElement"))
        stop.click()
        page.get_by_text("stopped before the answer began").wait_for()
        held[0].abort()
        page.unroute("**/v1/chat/completions")
        self.assertEqual(self.ask(page, "What color is the circle?").locator(".answer").inner_text(), "purple")
        self.assertEqual(len(self.sent("/v1/chat/completions")[-1]["messages"]), 1)

    def test_images_are_asked_about_as_frames(self):
        page = self.open()
        self.upload(page, SAMPLE)
        files = []
        for i, image in enumerate(page.locator("#sheet img").all()):
            file = self.scratch / f"frame{i + 1}.jpg"
            file.write_bytes(base64.b64decode(image.get_attribute("src").split(",")[1]))
            files.append(file)
        page.get_by_role("button", name="Another video").click()
        self.upload(page, *reversed(files))
        self.assertEqual(page.locator("#sheet button").first.get_attribute("aria-label"), "Image 1 of 8: frame1.jpg")
        turn = self.ask(page, "What color is the circle?")
        self.assertEqual(turn.locator(".answer").inner_text(), "purple", turn.inner_text())

    def test_another_video_deletes_the_upload(self):
        page = self.open()
        self.upload(page, SAMPLE)
        self.ask(page, "What color is the circle?")
        url = self.sent("/v1/chat/completions")[0]["messages"][0]["content"][0]["video_url"]["url"]
        with page.expect_response(lambda r: r.request.method == "DELETE"):
            page.get_by_role("button", name="Another video").click()
        with self.assertRaises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(f"{self.origin}/v1/videos/{url.removeprefix('upload:')}/frames")
        self.assertEqual(raised.exception.code, 404)
        self.assertTrue(page.get_by_role("button", name="Choose a video").is_visible())

    def test_a_frame_is_played_from_its_time(self):
        page = self.open()
        self.upload(page, SAMPLE)
        page.locator("#sheet button").nth(3).click()
        if not page.evaluate("document.createElement('video').canPlayType('video/mp4; codecs=\"avc1.640028\"')"):
            self.skipTest("this Chromium has no decoder of H.264")
        page.get_by_role("button", name="Play from here").click()
        page.locator("#player:not([hidden])").wait_for()
        self.assertGreaterEqual(page.evaluate("document.querySelector('#player').currentTime"), 0.9)
        page.keyboard.press("Escape")
        page.locator("#sheet button:focus").wait_for()
        self.assertTrue(page.evaluate("document.querySelector('#player').paused"))

    # ---- errors ----

    def test_a_text_file_is_refused_in_words(self):
        page = self.open()
        page.set_input_files("#file", str(ROOT / "README.md"))
        alert = page.locator("#start-error")
        alert.get_by_text("This is not a video that can be read.").wait_for()
        self.assertIn("Choose another file", alert.inner_text())
        choose = page.get_by_role("button", name="Choose a video")
        self.assertTrue(choose.evaluate("(e) => e === document.activeElement"))
        self.upload(page, SAMPLE)
        self.assertEqual(alert.inner_text(), "")

    def test_a_question_over_the_context_is_refused_with_the_arithmetic(self):
        page = self.open()
        self.upload(page, SAMPLE)
        turn = self.ask(page, "What color is the circle? " * 200)
        self.assertIn("The server refused the request.", turn.locator("[role=alert]").inner_text())
        self.assertIn("1024", turn.locator("[role=alert]").inner_text())
        self.assertEqual(self.ask(page, "What color is the circle?").locator(".answer").inner_text(), "purple")
        self.assertEqual(
            len(self.sent("/v1/chat/completions")[-1]["messages"]), 1, "a refused question is not sent again"
        )

    def test_a_lost_connection_is_told_and_tried_again(self):
        page = self.open()
        self.upload(page, SAMPLE)
        page.route("**/v1/chat/completions", lambda route: route.abort())
        turn = self.ask(page, "What color is the circle?")
        self.assertIn("No connection to the server.", turn.inner_text())
        page.unroute("**/v1/chat/completions")
        page.get_by_role("button", name="Try again").click()
        page.locator(".answer", has_text="purple").wait_for()
        self.assertEqual(page.locator(".turn").count(), 1)

    def test_a_forgotten_upload_is_sent_again(self):
        page = self.open()
        self.upload(page, SAMPLE)
        self.ask(page, "What color is the circle?")
        url = self.sent("/v1/chat/completions")[0]["messages"][0]["content"][0]["video_url"]["url"]
        request = urllib.request.Request(f"{self.origin}/v1/videos/{url.removeprefix('upload:')}", method="DELETE")
        urllib.request.urlopen(request).close()
        turn = self.ask(page, "How many objects are there?")
        self.assertIn("The server no longer has this video.", turn.inner_text())
        page.get_by_role("button", name="Try again").click()
        page.locator(".turn").nth(1).locator(".answer:not(:empty)").wait_for()
        self.assertNotEqual(self.sent("/v1/chat/completions")[-1]["messages"][0]["content"][0]["video_url"]["url"], url)

    def test_names_are_text(self):
        page = self.open()
        name = "<img src=x onerror=alert(1)> & ü.mp4"
        shutil.copy(SAMPLE, self.scratch / name)
        self.upload(page, self.scratch / name)
        self.assertEqual(page.locator("#video-title").inner_text(), name)
        self.assertEqual(page.locator("#video-title img").count(), 0)

    # ---- keys, access ----

    def test_a_key_is_asked_for_and_kept_in_the_tab_only(self):
        keys = self.scratch / "keys"
        keys.write_text(KEY + "\n")
        with Server(self.binary, "--model", "vidense-mini", "--api-key-file", keys) as server:
            page = self.open(server)
            field = page.get_by_role("textbox", name="API key")
            field.fill("wrong")
            page.keyboard.press("Enter")
            page.get_by_text("The server refused this key.").wait_for()
            field.fill(KEY)
            page.keyboard.press("Enter")
            page.locator("#state", has_text="Ready").wait_for()
            self.upload(page, SAMPLE)
            self.assertEqual(self.ask(page, "What color is the circle?").locator(".answer").inner_text(), "purple")
            self.assertEqual(page.evaluate("[localStorage.length, document.cookie, sessionStorage.length]"), [0, "", 1])
            self.assertNotIn(KEY, "".join(r.url for r in self.requests))

    def test_everything_works_from_the_keyboard(self):
        page = self.open()
        page.locator("#state", has_text="Ready").wait_for()
        page.keyboard.press("Tab")
        self.assertEqual(page.evaluate("document.activeElement.id"), "choose")
        with page.expect_file_chooser() as chooser:
            page.keyboard.press("Space")
        chooser.value.set_files(str(SAMPLE))
        page.wait_for_selector("#work:not([hidden])")
        self.assertEqual(page.evaluate("document.activeElement.id"), "question")
        page.keyboard.type("What color")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("is the circle?")
        self.assertEqual(page.locator("#question").input_value(), "What color\nis the circle?")
        page.keyboard.press("Enter")
        page.locator(".turn [aria-busy=false]").wait_for(state="attached")
        self.assertEqual(page.evaluate("document.activeElement.id"), "question")
        page.locator("#another").focus()
        page.keyboard.press("Tab")
        for key in ("ArrowRight", "ArrowRight", "Enter"):
            page.keyboard.press(key)
        self.assertEqual(page.locator("#viewer-text").inner_text(), "Frame 11 at 0.69 s")
        page.keyboard.press("ArrowRight")
        self.assertEqual(page.locator("#viewer-text").inner_text(), "Frame 15 at 0.94 s")
        page.keyboard.press("Escape")
        page.locator("#sheet button:focus[aria-label='Frame 15 at 0.94 s']").wait_for()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        self.assertIn("model: vidense-mini", page.locator("#pipeline-yaml").inner_text())

    def test_axe_finds_nothing(self):
        source = axe_source()
        for scheme in ("light", "dark"):
            page = self.open(color_scheme=scheme)
            self.audit(page, source, f"{scheme}, start")
            page.set_input_files("#file", str(ROOT / "README.md"))
            page.locator("#start-error.alert").wait_for()
            self.audit(page, source, f"{scheme}, refused file")
            self.upload(page, SAMPLE)
            self.ask(page, "What color is the circle?")
            self.ask(page, "What color is the circle? " * 200)
            page.locator("#pipeline summary").click()
            self.audit(page, source, f"{scheme}, conversation")
            page.locator("#sheet button").first.click()
            self.audit(page, source, f"{scheme}, viewer")

    def test_nothing_is_wider_than_a_small_screen(self):
        page = self.open()
        page.set_viewport_size({"width": 320, "height": 640})
        self.upload(page, SAMPLE)
        self.ask(page, "What color is the circle?")
        self.assertLessEqual(page.evaluate("document.documentElement.scrollWidth"), 320)
        self.assertTrue(page.get_by_role("button", name="Ask").is_visible())

    def test_the_policy_permits_nothing_but_the_page(self):
        self.open()
        policy = self.response.headers["content-security-policy"]
        for part in ("default-src 'none'", "connect-src 'self'", "img-src 'self' data: blob:"):
            self.assertIn(part, policy)
        self.assertNotIn("unsafe", policy)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--binary", type=Path, default=PageTest.binary)
    options, rest = parser.parse_known_args()
    PageTest.binary = options.binary
    unittest.main(argv=[sys.argv[0], *rest])

"""The request of VLMEvalKit (e8e78f05, `LMDeployAPI` with `video_llm`), as a recorded body: max_tokens 16384, n 1, one
user message with a data URI, a placeholder key."""

import json
import unittest
import urllib.request
from pathlib import Path

from server import Server
from world import BINARY, MODEL

BODY = Path(__file__).with_name("vlmevalkit.json").read_bytes()


class VlmevalkitTest(unittest.TestCase):
    def test_the_recorded_body_is_answered(self):
        with Server(BINARY, "--model", MODEL) as server:
            headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-123456"}
            request = urllib.request.Request(f"{server.url}/v1/chat/completions", data=BODY, headers=headers)
            with urllib.request.urlopen(request, timeout=120) as response:
                completion = json.load(response)
        self.assertEqual(completion["choices"][0]["message"]["content"].strip(), "blue")
        self.assertEqual(completion["choices"][0]["finish_reason"], "stop")

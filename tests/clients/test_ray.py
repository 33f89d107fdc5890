"""Ray Data's `HttpRequestProcessorConfig` over 200 rows: every row has the answer of `vidense eval`.

The columns of a Ray dataset are Arrow structs, so every part of a message has the keys of all parts, null where they
are not its own: `{"type": "text", "text": "...", "video_url": null}`.
"""

import itertools
import unittest

import ray
from ray.data.llm import HttpRequestProcessorConfig, build_processor

from server import Server
from world import BINARY, MODEL, World, data_uri, text, video

N_ROWS = 200


class RayTest(unittest.TestCase):
    def test_two_hundred_rows_are_answered(self):
        world = World("ray", seed=7101, n_videos=10)
        pairs = list(itertools.islice(itertools.cycle(zip(world.questions, world.answers)), N_ROWS))
        rows = [
            {"index": i, "expected": answer, "question": question["question"], "url": data_uri(world.path(question))}
            for i, (question, answer) in enumerate(pairs)
        ]

        def payload(row):
            content = [video(row["url"]), text(row["question"])]
            messages = [{"role": "user", "content": content}]
            return {**row, "payload": {"model": MODEL, "messages": messages, "max_tokens": 32, "temperature": 0.0}}

        def answer(row):
            response = row["http_response"]
            choices = response.get("choices")
            said = choices[0]["message"]["content"] if choices is not None else str(response)
            return {"index": row["index"], "expected": row["expected"], "answer": said}

        with Server(BINARY, "--model", MODEL) as server:
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)
            self.addCleanup(ray.shutdown)
            config = HttpRequestProcessorConfig(url=f"{server.url}/v1/chat/completions", batch_size=64, concurrency=1)
            processor = build_processor(config, preprocess=payload, postprocess=answer)
            found = sorted(processor(ray.data.from_items(rows)).take_all(), key=lambda row: row["index"])
        self.assertEqual(len(found), N_ROWS)
        self.assertEqual([row["answer"] for row in found], [row["expected"] for row in found])

"""lmms-eval 0.7.3 with `--model openai` on a task of coloured shapes that is made here.

With `pass_video_url` the server reads the clips, and each answer equals that of `vidense eval`. Without it, lmms-eval
samples and enlarges the frames itself and sends PNG images; every question is answered, and the accuracy is printed.
"""

import json
import subprocess
import sys
import unittest

from server import Server
from world import BINARY, MODEL, World

TASK = "vidense_world"
N_FRAMES = 8
YAML = """task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: "question"
doc_to_target: "answer"
process_results: !function utils.process_results
generation_kwargs:
  max_new_tokens: 64
  temperature: 0
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""
UTILS = """def doc_to_visual(doc):
    return [doc["video"]]


def process_results(doc, results):
    return {"exact_match": float(results[0].strip() == doc["answer"].strip())}
"""


class LmmsEvalTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = World("lmms_eval", seed=7202, n_videos=12)
        tasks = cls.world.folder / "tasks" / TASK
        tasks.mkdir(parents=True)
        data = cls.world.folder / "questions.jsonl"
        docs = [{**question, "video": str(cls.world.path(question).resolve())} for question in cls.world.questions]
        data.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
        (tasks / f"{TASK}.yaml").write_text(YAML.format(task=TASK, data=data.resolve()))
        (tasks / "utils.py").write_text(UTILS)
        cls.server = cls.enterClassContext(Server(BINARY, "--model", MODEL, "--allow-files", cls.world.clips.resolve()))

    def evaluate(self, name, **options):
        """Runs lmms-eval; returns the answers in the order of the questions."""
        out = self.world.folder / name
        model = {"model": MODEL, "base_url": f"{self.server.url}/v1", "api_key": "unused", "max_retries": 1}
        model.update(max_frames_num=N_FRAMES, **options)
        command = [
            *(sys.executable, "-m", "lmms_eval", "--model", "openai"),
            *("--model_args", ",".join(f"{name}={value}" for name, value in model.items())),
            *("--tasks", TASK, "--include_path", str(self.world.folder / "tasks")),
            *("--batch_size", "1", "--output_path", str(out), "--log_samples"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
        samples = sorted(out.rglob(f"*samples_{TASK}.jsonl"))
        self.assertTrue(samples, f"no samples written: {done.stderr[-3000:]}")
        lines = sorted(map(json.loads, samples[-1].read_text().splitlines()), key=lambda line: line["doc_id"])
        return [line["filtered_resps"] for line in lines]

    def test_answers_to_urls_equal_those_of_eval(self):
        answers = self.evaluate("urls", pass_video_url=True)
        both = zip(self.world.questions, answers, self.world.answers, strict=True)
        self.assertEqual([(q["video"], q["question"], *pair) for q, *pair in both if pair[0] != pair[1]], [])
        print(f"\naccuracy: {self.world.right(answers)} of {len(answers)}, eval {self.world.right(self.world.answers)}")

    def test_frames_that_the_client_samples_are_answered(self):
        answers = self.evaluate("frames")
        self.assertEqual([answer for answer in answers if not answer or "LMMS_EVAL_REQUEST_FAILED" in answer], [])
        print(f"\naccuracy: {self.world.right(answers)} of {len(answers)}, eval {self.world.right(self.world.answers)}")

"""lmms-eval 0.7.3 with `--model openai` on tasks of coloured shapes, as `vidense eval export` writes their directories.

With `pass_video_url` the server reads the clips: answers, scores and accuracies equal those of `vidense eval`, question
for question, and so do the samples that `vidense eval export` makes of the evaluation. Without it, lmms-eval samples
and enlarges the frames itself and sends PNG images; every question is answered, and the accuracy is printed.
"""

import json
import os
import re
import subprocess
import sys
import unittest

import datasets
from lmms_eval.baselines.loader import load_baseline
from lmms_eval.utils import handle_non_serializable, hash_string
from server import Server
from world import BINARY, MODEL, ROOT, World

N_FRAMES = 8
GOLDEN = ROOT / "tests" / "golden" / "eval" / "lmms_eval_files.json"
# Open questions by equality, and the same as multiple choice.
SPECS = {
    "shapes": {
        "format": {"questions": {"questions": "questions.jsonl"}},
        "prompt": {"text": "{question}", "source": "vidense world"},
        "metrics": ["exact"],
    },
    "shapes_choice": {
        "format": {"mlvu": {"tasks": [{"questions": "choices.json", "videos": "."}]}},
        "prompt": {"text": "{question}{options}", "source": "vidense world"},
        "metrics": ["choice"],
    },
}


def lines(path):
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def choices(questions):
    """Questions with two options, the right one at alternating positions, the other the answer of a like question."""
    rows = []
    for number, question in enumerate(questions):
        right = question["answer"]
        others = [other["answer"] for other in questions if other["type"] == question["type"]]
        others = [answer for answer in others if answer != right]
        candidates = [right, others[number % len(others)] if others else "none of these"]
        row = {"video": question["video"], "question": question["question"], "answer": right}
        candidates = candidates[::-1] if number % 2 else candidates
        rows.append({**row, "question_type": question["type"], "candidates": candidates})
    return rows


def structure(value):
    """Keys and types of JSON."""
    if isinstance(value, dict):
        return {key: structure(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [structure(inner) for inner in value[:1]]
    names = {type(None): "null", bool: "boolean", int: "integer", float: "number", str: "string"}
    return names[type(value)]


class LmmsEvalTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = World("lmms_eval", seed=7202, n_videos=12)
        (cls.world.clips / "choices.json").write_text(json.dumps(choices(cls.world.questions)))
        for name, spec in SPECS.items():
            description = cls.world.folder / f"{name}.yaml"
            description.write_text(json.dumps({"name": name, "split": "test", "source": "vidense world", **spec}))
            data = ["--data", cls.world.clips]
            evaluation, export = cls.world.folder / "evaluations" / name, ["eval", "export", description, *data]
            samples = ["--evaluation", evaluation, "--out", cls.world.folder / "samples" / name]
            for command in (
                ["eval", description, *data, "--model", MODEL, "--out", evaluation],
                [*export, "--to", "lmms-eval", "--task", name, "--out", cls.world.folder / "tasks" / name],
                [*export, "--to", "lmms-eval-samples", *samples, "--task", name],
            ):
                subprocess.run([BINARY, *command], check=True, capture_output=True)
        cls.server = cls.enterClassContext(Server(BINARY, "--model", MODEL, "--allow-files", cls.world.clips.resolve()))
        cls.urls = cls.evaluate("urls", pass_video_url=True)

    @classmethod
    def evaluate(cls, name, **options):
        """Runs lmms-eval over both tasks; returns the directory of its files."""
        out = cls.world.folder / name
        model = {"model": MODEL, "base_url": f"{cls.server.url}/v1", "api_key": "unused", "max_retries": 1}
        model.update(max_frames_num=N_FRAMES, **options)
        command = [
            *(sys.executable, "-m", "lmms_eval", "--model", "openai"),
            *("--model_args", ",".join(f"{name}={value}" for name, value in model.items())),
            *("--tasks", ",".join(SPECS), "--include_path", str(cls.world.folder / "tasks")),
            *("--batch_size", "1", "--output_path", str(out), "--log_samples"),
        ]
        environment = {**os.environ, "VIDENSE": str(BINARY)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False, env=environment)
        assert list(out.rglob("*_samples_*.jsonl")), f"no samples written: {done.stderr[-3000:]}"
        return out

    def files(self, out, task):
        """Samples by document, and results, that lmms-eval or an export wrote."""
        (samples,) = out.rglob(f"*_samples_{task}.jsonl")
        results = samples.with_name(samples.name.replace(f"_samples_{task}.jsonl", "_results.json"))
        return samples, sorted(lines(samples), key=lambda line: line["doc_id"]), json.loads(results.read_text())

    def scored(self, task):
        """The answers of `vidense eval`."""
        return lines(self.world.folder / "evaluations" / task / "scored.jsonl")

    def test_answers_and_scores_to_urls_equal_those_of_eval(self):
        for task, spec in SPECS.items():
            _, samples, results = self.files(self.urls, task)
            answers, measure = self.scored(task), spec["metrics"][0]
            found = [(line["filtered_resps"], line["score"]) for line in samples]
            expected = [(line["given"], line["scores"][measure]) for line in answers]
            pairs = zip(answers, found, expected, strict=True)
            self.assertEqual([(line["question"], *pair) for line, *pair in pairs if pair[0] != pair[1]], [])
            accuracy = sum(score for _, score in expected) / len(expected)
            self.assertAlmostEqual(results["results"][task]["score,none"], accuracy, places=12)
            self.assertTrue(0.1 < accuracy, "an accuracy that compares nothing")
            print(f"\n{task}: {accuracy:.4f} of {len(answers)} by lmms-eval and by eval")

    def test_exported_samples_equal_those_of_lmms_eval(self):
        for task in SPECS:
            path, own, own_results = self.files(self.urls, task)
            exported_path, exported, exported_results = self.files(self.world.folder / "samples" / task, task)
            # lmms-eval 0.7.3 hashes `null` in place of the document, which no request carries.
            documents = datasets.load_dataset(
                "json", data_files=str(self.world.folder / "tasks" / task / "questions.jsonl"), split="train"
            )
            options = {"indent": 2, "default": handle_non_serializable, "ensure_ascii": False}
            dumps = [json.dumps(row, **options) for row in documents]
            self.assertEqual([line.pop("doc_hash") for line in exported], [hash_string(text) for text in dumps])
            self.assertEqual({line.pop("doc_hash") for line in own}, {hash_string("null")})
            self.assertEqual({line.pop("status") for line in exported} - {"answered", "unparsed"}, set())
            self.assertEqual(exported, own)
            self.assertEqual(exported_results["n-samples"][task], own_results["n-samples"][task])
            self.assertEqual(exported_results["configs"][task].keys(), own_results["configs"][task].keys())
            means = [results["results"][task] for results in (exported_results, own_results)]
            self.assertEqual(means[0].keys(), means[1].keys())
            for key, value in means[1].items():
                compare = self.assertAlmostEqual if isinstance(value, float) else self.assertEqual
                compare(means[0][key], value)
            # The reader of `--baseline`, lmms-eval's own comparison of two runs.
            scores, results = load_baseline(str(exported_path), task)
            self.assertEqual(scores, load_baseline(str(path), task)[0])
            self.assertEqual((len(scores), results), (len(own), exported_results))

    def test_files_of_lmms_eval_have_the_structure_of_the_golden_file(self):
        _, samples, results = self.files(self.urls, "shapes")
        for value in results.values():
            if isinstance(value, dict) and "shapes" in value:
                value["vidense"] = value.pop("shapes")
                value.pop("shapes_choice")
        for key in ("usage", "efficiency"):
            results[key].pop("by_task")
        golden = json.loads(GOLDEN.read_text())
        self.assertEqual(structure(samples[0]), golden["sample"])
        self.assertEqual(structure(results), golden["results"])

    def test_frames_that_the_client_samples_are_answered(self):
        out = self.evaluate("frames")
        for task in SPECS:
            _, samples, results = self.files(out, task)
            answers = [line["filtered_resps"] for line in samples]
            self.assertEqual([answer for answer in answers if not answer or re.match(r"\[LMMS_EVAL", answer)], [])
            print(f"\n{task}: {results['results'][task]['score,none']:.4f} of {len(answers)} over the client's frames")

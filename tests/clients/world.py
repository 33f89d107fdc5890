"""The binary under test, and worlds of coloured shapes with the answers of `vidense eval`."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("VIDENSE_BINARY", ROOT / "target" / "release" / "vidense"))
OUT = Path(os.environ.get("VIDENSE_CLIENTS_OUT", ROOT / "target" / "clients"))
SAMPLE = ROOT / "samples" / "three_shapes.mp4"
MODEL = "vidense-mini"


def data_uri(path, mime="video/mp4"):
    """A file as a data URI."""
    return f"data:{mime};base64,{base64.b64encode(Path(path).read_bytes()).decode()}"


def video(url):
    """The part of a message that names a video."""
    return {"type": "video_url", "video_url": {"url": url}}


def text(words):
    """The part of a message that is text."""
    return {"type": "text", "text": words}


class World:
    """Clips and questions of `vidense world`, and the answers that `vidense eval` gives to them."""

    def __init__(self, name, seed, n_videos):
        self.folder = OUT / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        clips, answers = self.folder / "clips", self.folder / "answers.jsonl"
        questions = clips / "questions.jsonl"
        for command in (
            ["world", "--seed", str(seed), "--videos", str(n_videos), "--out", clips],
            ["eval", questions, "--model", MODEL, "--answers", answers],
        ):
            subprocess.run([BINARY, *command], check=True, capture_output=True)
        self.questions = [json.loads(line) for line in questions.read_text().splitlines()]
        self.answers = [json.loads(line)["given"] for line in answers.read_text().splitlines()]
        assert len(self.questions) == len(self.answers), (len(self.questions), len(self.answers))
        self.clips = clips

    def path(self, question):
        """The clip of a question."""
        return self.clips / question["video"]

    def right(self, answers):
        """Number of exact matches with the references, as `vidense eval` counts."""
        pairs = zip(self.questions, answers, strict=True)
        return sum(question["answer"].strip() == answer.strip() for question, answer in pairs)

import json
import os
import shutil
import subprocess

# The program that scores an answer as `vidense eval` does.
VIDENSE = os.environ.get("VIDENSE", "vidense")
if shutil.which(VIDENSE) is None:
    raise FileNotFoundError(f"`{VIDENSE}` scores the answers: put it on the PATH, or name it in VIDENSE")


def doc_to_visual(doc):
    return [doc["video"]]


def process_results(doc, results):
    # A request whose retries failed has a text of lmms-eval, which is no answer.
    if results[0].startswith("[LMMS_EVAL_REQUEST_FAILED"):
        return {"score": 0.0}
    # Half of a surrogate pair is no character of UTF-8.
    given = results[0].encode("utf-8", "replace").decode("utf-8")
    line = json.dumps({**doc, "given": given})
    command = [VIDENSE, "eval", "score", "--metric", METRIC]
    done = subprocess.run(command, input=line, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return {"score": json.loads(done.stdout)["score"]}

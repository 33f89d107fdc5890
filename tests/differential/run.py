"""Compare vidense with transformers on tiny checkpoints of every kind and print a table of verdicts.

    python tests/differential/run.py [--binary PATH] [--out DIRECTORY] [GROUP or GROUP/NAME ...]

The installed transformers writes the checkpoints, with random weights. Both sides answer a question about generated
frames: vidense, and `generate(do_sample=False)` in f32 after the checkpoint's own AutoProcessor (PIL backend). Equal
means the same tokens, counts and text. A case that vidense refuses declares a part of the message; docs/differential.md
lists these. The exit status is 1 after a difference, a crash, a timeout or an unexpected refusal.

    pip install torch==2.15.0 torchvision transformers==5.24.0 sentencepiece==0.2.3 pillow==12.3.0
    pip install gguf==0.19.0 protobuf jinja2

With transformers 4.57.6 the checkpoints and answers are those of version 4; cases that it cannot build are skipped.
"""

import argparse
import collections
import json
import os
import sys
import time
import traceback
import warnings
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TRANSFORMERS_VERBOSITY="error")
warnings.filterwarnings("ignore")

import torch  # noqa: E402
import transformers  # noqa: E402

import cases_gguf  # noqa: E402
import cases_layout  # noqa: E402
import cases_llm  # noqa: E402
import cases_random  # noqa: E402
import cases_text  # noqa: E402
import cases_vision  # noqa: E402
import tiny  # noqa: E402
from judge import judge  # noqa: E402

GOOD = ("equal", "near tie", "refused")
ROOT = Path(__file__).resolve().parents[2]


def wanted(case, names):
    """Whether the arguments select a case by group or name."""
    return not names or any(name in (case.group, f"{case.group}/{case.name}") for name in names)


def run(case, workshop, binary):
    """Build and judge one case, and return its row of the results."""
    try:
        d = case.make(f"{case.group}-{case.name}")
        frames = tiny.frames(d, case.n_frames, case.size, case.seed, case.mode)
    except Exception as error:  # The installed transformers lacks the class or cannot save it.
        traceback.print_exc(limit=2)
        return dict(verdict="NOT MADE", detail=f"{type(error).__name__}: {str(error)[:300]}")
    verdict, detail, found = judge(binary, d, frames, case)
    return dict(verdict=verdict, detail=detail, command=found["command"], stderr=found["detail"][-600:])


def table(results):
    """Format the number of cases per group (rows) and verdict (columns) as a Markdown table."""
    verdicts = list(GOOD) + sorted({result["verdict"] for result in results} - set(GOOD))
    groups = collections.OrderedDict()
    for result in results:
        groups.setdefault(result["group"], collections.Counter())[result["verdict"]] += 1
    total = sum(groups.values(), collections.Counter())
    lines = [f"| group | cases | {' | '.join(verdicts)} |", f"|---|---|{'---|' * len(verdicts)}"]
    for group, counts in [*groups.items(), ("all", total)]:
        lines.append(f"| {group} | {sum(counts.values())} | {' | '.join(str(counts[verdict]) for verdict in verdicts)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="GROUP|GROUP/NAME")
    parser.add_argument("--binary", default=str(ROOT / "target/release/vidense"))
    parser.add_argument("--out", default=str(ROOT / "target/differential"))
    parser.add_argument("--list", action="store_true", help="print the cases and exit")
    arguments = parser.parse_args()
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    workshop = tiny.Workshop(arguments.out)
    modules = (cases_llm, cases_vision, cases_text, cases_layout, cases_gguf, cases_random)
    cases = [case for module in modules for case in module.cases(workshop) if wanted(case, arguments.names)]
    if not cases:
        sys.exit(f"unknown case {' or '.join(arguments.names)}")
    if arguments.list:
        print("\n".join(f"{case.group}/{case.name}" for case in cases))
        return
    results, start = [], time.time()
    with open(workshop.root / "results.jsonl", "w") as log:
        for case in cases:
            result = dict(group=case.group, name=case.name) | run(case, workshop, arguments.binary)
            results.append(result)
            log.write(json.dumps(result) + "\n")
            print(f"{result['verdict']:12} {case.group}/{case.name} {result['detail'][:400]}", flush=True)
    bad = [result for result in results if result["verdict"] not in GOOD]
    print(f"\ntransformers {transformers.__version__}, torch {torch.__version__}, {time.time() - start:.0f} s\n")
    print(table(results))
    for result in bad:
        print(f"\n{result['verdict']} {result['group']}/{result['name']}\n  {result['detail']}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()

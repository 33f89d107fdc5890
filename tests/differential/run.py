"""Ask tiny checkpoints of every kind beside transformers, print a table, and fail on a difference.

    python tests/differential/run.py [--binary target/release/vidense] [--out target/differential] [GROUP or GROUP/NAME ...]

The checkpoints are made by the transformers that is installed, with random weights; each is asked about frames that are made here, by vidense
and by `generate(do_sample=False)` in f32 behind the checkpoint's own AutoProcessor (PIL backend). Equal means the same tokens, the same
counts and the same text. A case that vidense refuses says so in its own definition, with a part of the message; docs/differential.md lists
those. The exit status is 1 if anything differs, crashes, hangs, or is refused without being expected.

    pip install torch==2.15.0 torchvision transformers==5.24.0 sentencepiece==0.2.3 pillow==12.3.0 gguf==0.19.0 protobuf jinja2

transformers 4.57.6 runs it too, and then writes and answers as version 4 did; cases that it cannot make are left out.
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
    """Whether a case is among the groups and names that were asked for."""
    return not names or any(name in (case.group, f"{case.group}/{case.name}") for name in names)


def run(case, workshop, binary):
    """The verdict over one case, as a line of the results."""
    try:
        d = case.make(f"{case.group}-{case.name}")
        frames = tiny.frames(d, case.n_frames, case.size, case.seed, case.mode)
    except Exception as error:  # the installed transformers does not know the class, or cannot save it
        traceback.print_exc(limit=2)
        return dict(verdict="NOT MADE", detail=f"{type(error).__name__}: {str(error)[:300]}")
    verdict, detail, found = judge(binary, d, frames, case)
    return dict(verdict=verdict, detail=detail, command=found["command"], stderr=found["detail"][-600:])


def table(results):
    """A Markdown table: a row a group, a column a verdict."""
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
    parser.add_argument("--list", action="store_true", help="print the cases and stop")
    arguments = parser.parse_args()
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    workshop = tiny.Workshop(arguments.out)
    modules = (cases_llm, cases_vision, cases_text, cases_layout, cases_gguf, cases_random)
    cases = [case for module in modules for case in module.cases(workshop) if wanted(case, arguments.names)]
    if not cases:
        sys.exit(f"no case is called {' or '.join(arguments.names)}")
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

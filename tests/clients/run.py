"""Run unmodified clients of OpenAI-compatible servers against `vidense serve` with vidense-mini, and print a table.

    python tests/clients/run.py [--binary target/release/vidense] [--out target/clients] [--site DIR] [CLIENT ...]

The clients are openai, vlmevalkit (a recorded body), ray and lmms_eval. Their packages are installed from PyPI into a
virtual environment below `--out`, each when its client is named (all, by default); lmms_eval brings PyTorch, several
gigabytes. `--site` names the site-packages of another environment of the same Python version, whose packages are used
and not installed again. The exit status is 1 if a client failed.
"""

import argparse
import os
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = {
    "openai": ["openai>=2"],
    "vlmevalkit": [],
    "ray": ["ray[data]==2.60.0", "aiohttp"],
    "lmms_eval": ["lmms_eval==0.7.3", "decord", "filelock<4"],
}


def environment(out, site):
    """The Python of a virtual environment below `out`, made when missing; `site` adds the packages of another one."""
    folder = out / "venv"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    if site:
        command = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        packages = subprocess.check_output(command, text=True).strip()
        Path(packages, "other_site.pth").write_text(f"{site.resolve()}\n")
    return python


def run(python, name, options):
    """Installs and runs one client; returns whether it passed, and the seconds of its tests."""
    packages = CLIENTS[name]
    if packages and not options.no_install:
        done = subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=False)
        if done.returncode:
            return False, 0.0
    start = time.monotonic()
    paths = {"VIDENSE_BINARY": str(options.binary.resolve()), "VIDENSE_CLIENTS_OUT": str(options.out.resolve())}
    command = [python.absolute(), "-m", "unittest", "-v", f"test_{name}"]
    done = subprocess.run(command, cwd=Path(__file__).parent, env={**os.environ, **paths}, check=False)
    return done.returncode == 0, time.monotonic() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=", ".join(CLIENTS))
    parser.add_argument("--binary", type=Path, default=ROOT / "target" / "release" / "vidense")
    parser.add_argument("--out", type=Path, default=ROOT / "target" / "clients")
    parser.add_argument("--site", type=Path, help="site-packages of another environment to use beside")
    parser.add_argument("--no-install", action="store_true", help="use the packages as they are")
    options = parser.parse_args()
    unknown = [name for name in options.clients if name not in CLIENTS]
    if unknown:
        sys.exit(f"unknown client `{unknown[0]}`: one of {', '.join(CLIENTS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    python = environment(options.out, options.site)
    results = {}
    for name in options.clients or CLIENTS:
        print(f"\n== {name}", flush=True)
        results[name] = run(python, name, options)
    print("\n| client | result | time |\n|---|---|---|")
    for name, (passed, seconds) in results.items():
        print(f"| {name} | {'passed' if passed else 'FAILED'} | {seconds:.0f} s |")
    sys.exit(0 if all(passed for passed, _ in results.values()) else 1)


if __name__ == "__main__":
    main()

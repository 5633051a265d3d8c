#!/usr/bin/env python3
"""Crash-and-recover runs: jobs of two ranks on real gloo, one of which crashes once. All must recover.

tests/recover.py [--runs 20] [--elastictop PATH] [--python PATH]   (needs torch; the test command runs a few)
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
TIMEOUT = 120


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--elastictop", default=REPOSITORY / "target/debug/elastictop")
    parser.add_argument("--python", default=REPOSITORY / ".venv/bin/python")
    return parser.parse_args()


def run(args, env, number):
    """Returns what went wrong, or None."""
    name = f"recover-{number}"
    command = [args.elastictop, "run", "--wait", "--name", name, "--python", args.python]
    command += ["--nproc-per-node", "2", "--max-restarts", "1", REPOSITORY / "tests/scripts/train_gloo.py"]
    command += ["--steps", "4", "--crash-step", "2", "--crash-rank", str(number % 2)]
    try:
        ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        subprocess.run([args.elastictop, "stop", "--now", name], env=env, capture_output=True)
        return f"hung for {TIMEOUT} s"
    if ran.returncode != 0:
        return f"exit code {ran.returncode}: {ran.stderr.strip()}"
    told = subprocess.run([args.elastictop, "status", name, "--json"], env=env, capture_output=True, text=True)
    job = json.loads(told.stdout)["job"]
    if (job["state"], job["restarts"]) != ("done", 1):
        return f"{job['state']} after {job['restarts']} restarts"
    return None


def main():
    args = arguments()
    recovered = 0
    with tempfile.TemporaryDirectory(prefix="elastictop-recover-") as directory:
        env = os.environ | {"ELASTICTOP_DIR": os.environ.get("ELASTICTOP_DIR", directory)}
        for number in range(args.runs):
            start = time.monotonic()
            wrong = run(args, env, number)
            recovered += wrong is None
            print(f"run {number + 1}: {wrong or 'recovered'}, {time.monotonic() - start:.1f} s", flush=True)
    print(f"{recovered} of {args.runs} runs recovered")
    return recovered != args.runs


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Makes the Python environment that the end-to-end tests run torchrun in.

    python3 tests/env/make_env.py [DIRECTORY]        default: .venv at the root of the repository

Downloads about 0.6 GB, takes 1.3 GB on disk and under a minute. Needs Python 3.11 or newer, a C compiler and
binutils; no GPU. Returns at once if the environment is there and made from the same inputs; otherwise starts from
nothing.
"""

import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"
STUBS = HERE / "torch_stubs.py"
INPUTS = (REQUIREMENTS, STUBS, pathlib.Path(__file__).resolve())
OLDEST_PYTHON = (3, 11)  # torch 2.15 has no wheels for an older one
TOOLS = ("cc", "ld", "nm", "readelf", "ldd")

# Loads what the tests load, so that its bytecode is there: no rank of a test then spends seconds on compiling.
CHECK = """
import torch.distributed.run, torch.distributed.launcher.api, wandb, torch.distributed as dist
import torch.distributed.elastic.rendezvous.registry, torch.distributed.elastic.rendezvous.dynamic_rendezvous
import torch.distributed.elastic.rendezvous.c10d_rendezvous_backend
import torch.distributed.elastic.agent.server.local_elastic_agent
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.ones(1, 2)).sum().backward()
optimizer.step()
dist.destroy_process_group()
"""


def main():
    if len(sys.argv) > 2 or sys.argv[1:2] in (["-h"], ["--help"]):
        raise SystemExit(__doc__)
    venv = pathlib.Path(sys.argv[1] if len(sys.argv) == 2 else HERE.parents[1] / ".venv").absolute()
    venv.mkdir(parents=True, exist_ok=True)
    # The directory itself is the lock: unlike a file in it, it outlives `venv --clear`.
    lock = os.open(venv, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    stamp, wanted = venv / "made-from", fingerprint(venv)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    others = [path.name for path in venv.iterdir()]
    if others and "pyvenv.cfg" not in others:
        fail(f"{venv} is not empty and no virtual environment", "name another directory, or remove it")
    check_machine()
    print(f"{venv}: Python {sys.version.split()[0]}, packages of {REQUIREMENTS}", flush=True)
    stamp.unlink(missing_ok=True)  # first, as --clear may be interrupted at any file
    python = venv / "bin" / "python"
    # isolated (-I): neither PYTHONPATH nor the user's site-packages may decide what is found.
    part("virtual environment", sys.executable, "-I", "-m", "venv", "--clear", venv)
    part("packages", python, "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
         "--no-compile", "-r", REQUIREMENTS, hint="see pip's message above; are the package index and the disk there?")
    site_packages = subprocess.run([python, "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                                   check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    part("stubs of CUDA libraries", python, "-I", STUBS, site_packages)
    part("check", python, "-I", "-W", "ignore", "-c", CHECK)
    new = venv / "made-from.new"
    new.write_text(wanted)
    new.replace(stamp)


def fingerprint(venv):
    """Changes with whatever the environment depends on; its own path is written into its scripts."""
    digest = hashlib.sha256(f"{venv}\n{sys.version}\n".encode())
    for path in INPUTS:
        digest.update(path.read_bytes())
    return digest.hexdigest() + "\n"


def check_machine():
    if sys.version_info < OLDEST_PYTHON:
        fail("Python {}.{} is too old: torch 2.15 needs {}.{}".format(*sys.version_info[:2], *OLDEST_PYTHON),
             "run this script with a newer one, such as python3.11")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        fail(f"no {', '.join(missing)} on PATH, to compile the stubs of CUDA libraries with",
             "install a C compiler and binutils (Debian: apt-get install gcc libc6-dev binutils)")


def part(name, *command, hint="see the message above"):
    print(f"  {name} ...", end=" ", flush=True)
    start = time.monotonic()
    code = subprocess.run(command, stdin=subprocess.DEVNULL).returncode
    if code:
        fail(f"{name}: `{' '.join(map(str, command))}` exited with {code}", hint)
    print(f"{time.monotonic() - start:.1f} s", flush=True)


def fail(what, what_next):
    raise SystemExit(f"make_env: {what}\n  {what_next}, then run this again")


if __name__ == "__main__":
    main()

"""A rank with children that must not be taken for ranks.

Data loaders with its environment, a zombie grandchild, a session leader named wandb-core. Ends when the file argv[1]
exists. No torch.
"""

import ctypes
import multiprocessing
import os
import sys

from common import RANK, say, wait_for

LOADERS = 2
PR_SET_NAME = 15


def load(life):
    """Waits for the rank's end of the pipe to close, with a child of its own that ended and is never reaped."""
    if os.fork() == 0:
        os._exit(0)
    life.recv_bytes()


def uploader(life):
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_NAME, b"wandb-core", 0, 0, 0)
    life.recv_bytes()


def start(target):
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=guarded, args=(target, ours, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def guarded(target, ours, theirs):
    ours.close()
    try:
        target(theirs)
    except EOFError:
        pass


children = [start(target) for target in [load] * LOADERS + [uploader]]
say(f"rank {RANK} has children {' '.join(str(process.pid) for process, _ in children)}")
wait_for(sys.argv[1])
for process, _ in children:
    process.terminate()
    process.join()

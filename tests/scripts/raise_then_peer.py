"""Rank 1 raises ValueError in a collective's place.

The others then fail with "closed by peer". --record: with torch's error files.
"""

import signal
import sys

import torch
import torch.distributed as dist
from common import RANK
from torch.distributed.elastic.multiprocessing.errors import record

# The agent ends the others as soon as it sees rank 1 gone; this lets them fail by themselves first.
signal.signal(signal.SIGTERM, signal.SIG_IGN)


def main():
    dist.init_process_group("gloo")
    dist.barrier()
    if RANK == 1:
        raise ValueError("bad batch: expected 4 features, got 3")
    dist.all_reduce(torch.ones(1))


(record(main) if "--record" in sys.argv else main)()

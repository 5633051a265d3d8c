"""Rank argv[1] (default 0) prints what torch prints when a GPU is full and exits with 1.

The others wait to be ended. No torch.
"""

import sys

from common import RANK, wait_to_be_ended

TRACEBACK = """\
Traceback (most recent call last):
  File "train.py", line 61, in <module>
    loss.backward()
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU {rank} has a total capacity of 79.11 GiB of \
which 1.29 GiB is free. Including non-PyTorch memory, this process has 77.80 GiB memory in use. Of the allocated memory \
75.02 GiB is allocated by PyTorch, and 1.62 GiB is reserved by PyTorch but unallocated.
"""

if RANK == int(sys.argv[1] if len(sys.argv) > 1 else 0):
    sys.stderr.write("".join(f"[rank{RANK}]: {line}\n" for line in TRACEBACK.format(rank=RANK).splitlines()))
    raise SystemExit(1)
wait_to_be_ended()

"""Rank 1 exits with 0 after the first step; the others fail in the next collective."""

import os

import torch
import torch.distributed as dist
from common import RANK, say

dist.init_process_group("gloo")
dist.all_reduce(torch.ones(1))
if RANK == 1:
    say("rank 1 leaves early")
    os._exit(0)
dist.all_reduce(torch.ones(1))

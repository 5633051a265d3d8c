"""Rank argv[1] (default 0) reads address 0 and dies of SIGSEGV; the others wait to be ended. No torch."""

import ctypes
import resource
import sys

from common import RANK, wait_to_be_ended

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
if RANK == int(sys.argv[1] if len(sys.argv) > 1 else 0):
    ctypes.string_at(0)
wait_to_be_ended()

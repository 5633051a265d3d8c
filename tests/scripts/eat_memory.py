"""Rank argv[1] takes memory until somebody stops it; the others wait to be ended. No torch."""

import sys

from common import RANK, say, wait_to_be_ended

CHUNK = 16 << 20

taken = []
if RANK == int(sys.argv[1]):
    say(f"rank {RANK} takes memory")
    while True:
        taken.append(b"x" * CHUNK)
wait_to_be_ended()

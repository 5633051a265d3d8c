"""Ignores SIGTERM (says so) and waits; rank --fail-rank exits with 3 once all ranks met in --meet DIR. No torch."""

import argparse
import signal

from common import RANK, say, wait_for_all_ranks, wait_to_be_ended

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--fail-rank", type=int)
parser.add_argument("--meet", metavar="DIR")
args = parser.parse_args()

signal.signal(signal.SIGTERM, lambda number, frame: say(f"rank {RANK} ignores SIGTERM"))
say(f"rank {RANK} is ready")
if args.meet:
    wait_for_all_ranks(args.meet)
if RANK == args.fail_rank:
    raise SystemExit(3)
wait_to_be_ended()

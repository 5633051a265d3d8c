"""Says who it is and waits until the file argv[1] exists, then exits with 0. No torch."""

import sys

from common import RANK, RESTART, WORLD_SIZE, say, wait_for

say(f"rank {RANK} of {WORLD_SIZE} waits, restart {RESTART}")
wait_for(sys.argv[1])
say(f"rank {RANK} is done")

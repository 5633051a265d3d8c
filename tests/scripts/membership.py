"""For --nnodes 1:3: each incarnation says its RANK, WORLD_SIZE and node, and waits until the file argv[1] exists. No torch."""

import os
import sys

from common import RANK, RESTART, WORLD_SIZE, say, wait_for

say(f"rank {RANK} of {WORLD_SIZE} on node {os.environ['GROUP_RANK']}, restart {RESTART}")
wait_for(sys.argv[1])

"""For --nnodes 1:3: says its RANK, WORLD_SIZE and node, and waits until the file argv[1] exists. No torch.

Several agents on one host need --local-addr localhost to find each other.
"""

import os
import sys

from common import RANK, RESTART, WORLD_SIZE, say, wait_for

say(f"rank {RANK} of {WORLD_SIZE} on node {os.environ['GROUP_RANK']}, restart {RESTART}")
wait_for(sys.argv[1])

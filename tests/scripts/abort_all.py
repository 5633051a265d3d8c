"""All ranks die of SIGABRT at once in restart 0, after they met in the directory argv[1].

Later ones end well. No torch.
"""

import os
import resource
import sys

from common import RANK, RESTART, say, wait_for_all_ranks

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
wait_for_all_ranks(sys.argv[1])
if RESTART == 0:
    os.abort()
say(f"rank {RANK} is fine in restart {RESTART}")

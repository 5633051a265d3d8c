"""For torchrun --run-path: all ranks die of SIGABRT as the agent wakes them to let them go. No torch.

They have returned and sleep on an event whose set() waits in turn for each of them to say that it woke up: the agent
waits for zombies without end. Give --monitor-interval 1, so that all sleep by the time the agent looks.
"""

import multiprocessing.synchronize
import os
import resource

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class AbortWhenWoken:
    def __init__(self, semaphore):
        self.semaphore = semaphore

    def acquire(self, *args):
        self.semaphore.acquire(*args)
        os.abort()


def wait(condition, timeout=None):
    condition._wait_semaphore = AbortWhenWoken(condition._wait_semaphore)
    return sleep(condition, timeout)


sleep = multiprocessing.synchronize.Condition.wait
multiprocessing.synchronize.Condition.wait = wait

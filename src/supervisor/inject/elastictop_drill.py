"""Puts one fault into a healthy rank, because its user asked for it with `elastictop drill`.

The thread that beats loads this file only when it finds `drill.json` in the rank's folder, which is closed to all but
the job's user. The fault runs in the main thread, between two of its bytecodes, as if the script itself had made it,
and is over after the time that the file says. Nothing is left of it then.
"""

import _thread
import ctypes
import json
import os
import time

# Not `threading`: the first thread that imports it counts as the main one, and this code runs in another.

FRESH_S = 10  # an order that nobody took is void after this time
MOST_S = 3600
ENABLED = os.environ.get("ELASTICTOP_DRILL", "1") != "0"

_kept = []  # the interpreter does not keep callbacks alive


def begin(directory, main_thread):
    """Takes the order and has the main thread carry it out."""
    path = os.path.join(directory, "drill.json")
    with open(path, "rb") as file:
        stat = os.fstat(file.fileno())
        order = json.loads(file.read(4096))
    if stat.st_uid != os.getuid() or stat.st_mode & 0o022 or not ENABLED:
        os.rename(path, os.path.join(directory, "drill.refused.json"))
        return
    fresh = abs(time.time() - float(order["at"])) <= FRESH_S and int(order["pid"]) == os.getpid()
    if not fresh or order["fault"] not in FAULTS:
        os.rename(path, os.path.join(directory, "drill.refused.json"))
        return
    seconds = min(max(float(order["seconds"]), 0.0), MOST_S)
    # Taken now: whoever asked sees by this that the fault begins.
    os.rename(path, os.path.join(directory, "drill.taken.json"))
    if order["fault"] == "oom":
        raise_in(main_thread, MemoryError)  # the error alone: no memory is used up
        return

    def act(_):
        FAULTS[order["fault"]](directory, seconds)
        return 0

    callback = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(act)
    _kept.append(callback)
    if ctypes.pythonapi.Py_AddPendingCall(callback, None) != 0:
        raise RuntimeError("the interpreter takes no more calls: try again")


def raise_in(thread, exception):
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(exception))


def sleep(_directory, seconds):
    time.sleep(seconds)


def spin(_directory, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def hold_gil(_directory, seconds):
    # PyDLL, unlike CDLL, keeps Python's lock during the call.
    ctypes.PyDLL(None).usleep(int(min(seconds, 4000) * 1_000_000))


def read_a_pipe(directory, seconds):
    """A read that nobody feeds until a timer does."""
    path = os.path.join(directory, "drill.fifo")
    if not os.path.exists(path):
        os.mkfifo(path, 0o600)
    # Open at both ends, so that the open itself does not wait.
    fd = os.open(path, os.O_RDWR)

    def feed():
        time.sleep(seconds)
        os.write(fd, b"x")

    _thread.start_new_thread(feed, ())
    os.read(fd, 1)
    os.close(fd)


FAULTS = {"hang": sleep, "busy": spin, "gil": hold_gil, "read": read_a_pipe, "oom": None}

"""Runs at the start of every Python process of a job, before the user's code; acts only in ranks.

elastictop puts this directory in front of PYTHONPATH. In a rank, a thread beats once a second: one JSON datagram with
the step and how far each process group's collectives are. Nothing here may change what the script does: each failure
is caught and told in the next datagram. Every other process only goes on to the next `sitecustomize`, as if this one
were not there.

Standard library only, Python 3.9 or newer; in processes that are no ranks only os, sys and what `import` itself uses.
"""

import os
import sys

PERIOD = 1.0
JITTER = 0.8  # share of the period
GOLDEN = 0.6180339887498949  # its multiples fill an interval most evenly
GROUPS_MAX = 64
DATAGRAM_MAX = 60_000  # bytes; well below the 208 KiB that a socket buffers by default
TEXT_MAX = 200
SUN_PATH_MAX = 100  # the kernel's limit is 107
FRAMES_MAX = 200
STILL = 3.0  # seconds without a step or collective, after which it is worth telling where the main thread is
LIBRARIES = (os.path.dirname(os.__file__) + os.sep, os.path.dirname(os.path.abspath(__file__)) + os.sep, "<")
PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
IDENTITY = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT")
DUMP_MAX = 64 << 20  # bytes; a full flight recorder with 2000 collectives has 1 MiB


def is_rank():
    """By pid where the rank shim could say it before exec; ranks that multiprocessing spawns are the agent's children."""
    env = os.environ
    if env.get("ELASTICTOP_AGENT"):
        env["ELASTICTOP_AGENT_PID"] = str(os.getpid())
        del env["ELASTICTOP_AGENT"]  # the agent alone has it
        return False
    return env.get("ELASTICTOP_RANK_PID") == str(os.getpid()) or (
        "--multiprocessing-fork" in getattr(sys, "orig_argv", ())
        and env.get("ELASTICTOP_AGENT_PID") == str(os.getppid())
    )


class Rank:
    """What the beats tell of this process, and the thread that sends them."""

    def __init__(self, address):
        self.address = address
        self.main_thread = _thread.get_ident()
        self.pid = os.getpid()  # a forked child has this object, but is no rank
        self.number = 0
        self.error = None
        self.identity = {}
        self.optimizer_steps = {}
        self.optimizer_step = None  # (step, when, collectives of the default group by then)
        self.recorders = {}
        self.sending = _thread.allocate_lock()
        self.finished = False
        self.stop = _thread.allocate_lock()
        self.stop.acquire()
        self.main = _thread.get_ident()
        self.asked = f"{address}.ask.{self.pid}"
        self.directory = os.environ.get("ELASTICTOP_RANK_DIR")
        self.order = os.path.join(self.directory or "", "drill.json")
        self.is_short = len(os.fsencode(address)) <= SUN_PATH_MAX
        self.known = {}  # process group -> what does not change of it
        self.still = None, 0.0  # the counters, and since when they stand
        self.server = None  # whether there is one; None: not tried yet

    def start(self):
        self.send("hello")
        # Registered before any user code, so run after all of the user's own exit handlers.
        atexit.register(self.finish)
        # Signals are the script's: one that its main thread blocks (to sigwait for it) must not find this thread open.
        # A fault in this thread is its own.
        faults = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - faults)
        try:
            # Not a threading.Thread: the script's threading.enumerate() stays as it was.
            _thread.start_new_thread(self.beat, ())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def beat(self):
        """Once a second, but at odd moments within it: beats in step with the script would always see the same."""
        base = monotonic()
        phase = self.pid * GOLDEN % 1.0
        while True:
            phase = (phase + GOLDEN) % 1.0
            planned = base + PERIOD + PERIOD * JITTER * phase
            if self.stop.acquire(timeout=max(0.0, planned - monotonic())):
                return
            now = monotonic()
            self.send("beat", now - planned)
            base = max(base + PERIOD, now - PERIOD)
            self.part("worker server", self.serve, None)
            self.part("answer", self.answer, None)

    def finish(self):
        """Ends the thread while the interpreter is whole: later, to take the GIL in C++ code would abort the process."""
        if os.getpid() == self.pid:
            self.stop.release()
            self.send("bye")

    def failed(self, where, error):
        self.error = f"{where}: {type(error).__name__}: {error}"[:TEXT_MAX]

    def send(self, kind, late=0.0):
        if os.getpid() != self.pid or not self.sending.acquire(timeout=PERIOD):
            return
        try:
            if self.finished:
                return
            self.finished = kind == "bye"
            data = self.datagram(kind, late)
            self.number += 1
            self.deliver(data)
            self.error = None
        except OSError:
            pass  # no supervisor now, or a full socket: the next beat is the retry, and its number shows the gap
        except Exception as error:
            self.failed("beat", error)
        finally:
            self.sending.release()

    def deliver(self, data):
        # A new socket each time (10 us): a kept one could be closed by the script, and its number be the script's file.
        sender = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK)
        try:
            if self.is_short:
                sender.sendto(data, self.address)
            else:
                with_short_path(self.address, lambda path: sender.sendto(data, path))
        finally:
            sender.close()

    def serve(self):
        """Torch's own server for what the rank's C++ parts know: its threads answer when Python cannot any more."""
        c10d = sys.modules.get("torch.distributed.distributed_c10d")
        world = getattr(c10d, "_world", None)
        if self.server is not None or world is None or not world.pg_map:
            return
        self.server = False
        make = getattr(sys.modules.get("torch._C._distributed_c10d"), "_WorkerServer", None)
        if make is None or os.environ.get("ELASTICTOP_WORKER_SERVER") == "0":
            return
        import ctypes

        path = f"{self.address}.srv.{self.pid}"
        if os.path.exists(path):
            os.unlink(path)  # of a process that had this number before
        server = with_short_path(path, make)
        # Never to be destroyed, here or in a forked child: that would close the listening socket under the server's
        # thread, which ends the process.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(server))
        self.server = True

    def answer(self):
        """Writes what the supervisor asked for by a file: the word in it is what, the name of the answer follows."""
        if not os.access(self.asked, os.F_OK):
            return  # nobody asks: the usual case, 1 us
        try:
            with open(self.asked, encoding="utf-8") as file:
                wanted, path = file.read(4096).split("\n")[:2]
        except ValueError:
            return  # still being written
        os.unlink(self.asked)
        text = json.dumps({"stacks": self.stacks, "flight": self.flight}[wanted]())
        if len(text) > DUMP_MAX:
            raise ValueError(f"an answer of {len(text)} bytes")
        fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
        os.rename(f"{path}.new", path)

    def stacks(self):
        """The stacks of all threads but this one, innermost frame first."""
        threads = []
        for ident, frame in sys._current_frames().items():
            if ident == _thread.get_ident():
                continue
            frames = []
            while frame is not None and len(frames) < FRAMES_MAX:
                code = frame.f_code
                name = getattr(code, "co_qualname", code.co_name)
                frames.append({"name": name, "filename": code.co_filename, "line": frame.f_lineno or 0})
                frame = frame.f_back
            threads.append({"is_main": ident == self.main, "frames": frames})
        return {"threads": threads}

    def flight(self):
        """The flight recorders of all backends that have groups, one dump each, and the members of these groups."""
        c10d = sys.modules.get("torch.distributed.distributed_c10d")
        world = getattr(c10d, "_world", None)
        if world is None:
            return {"dumps": [], "groups": {}}
        members, dumps = {}, []
        for pg, ranks in list(world.pg_group_ranks.items()):
            name = str(world.pg_names.get(pg, ""))
            members[name] = {"name": name, "desc": str(getattr(pg, "group_desc", "")), "ranks": sorted(ranks)}
        for backend in {str(backend) for backend, _ in world.pg_map.values()} | set(self.recorders):
            for dump in recorder_dumps(backend):
                dumps.append(json.loads(dump(includeCollectives=True)))
        return {"dumps": [dump for dump in dumps if dump.get("entries")], "groups": members}

    def datagram(self, kind, late):
        self.part("drill", self.drill, None)
        groups = self.part("groups", self.groups, [])
        step, step_at, step_seq, step_source = self.part("step", self.step, (None, None, None, None))
        identity = self.part("identity", self.read_identity, {})
        if len(groups) > GROUPS_MAX:
            self.error = self.error or f"{GROUPS_MAX} of {len(groups)} process groups are shown"
            del groups[GROUPS_MAX:]
        message = {
            "v": 1, "kind": kind, "pid": self.pid, "at": time(), "n": self.number,
            "rank": identity.get("RANK"),
            "local_rank": identity.get("LOCAL_RANK"),
            "world_size": identity.get("WORLD_SIZE"),
            "restart_count": identity.get("TORCHELASTIC_RESTART_COUNT"),
            "step": step, "step_at": step_at, "step_seq": step_seq, "step_source": step_source,
            "late": round(late, 4), "groups": groups, "error": self.error,
        }
        where = self.part("where", lambda: self.where([step, *groups]), None)
        if where:
            message["where"] = where
        nan = getattr(sys.modules.get("elastictop"), "_nan", None)
        if isinstance(nan, tuple):
            message["nan"] = {"key": nan[0][:TEXT_MAX], "step": nan[1], "rows": nan[2]}
        data = json.dumps(message).encode()
        while len(data) > DATAGRAM_MAX and groups:
            del groups[len(groups) // 2:]
            message["error"] = f"{len(groups)} process groups are shown: the others do not fit"
            data = json.dumps(message).encode()
        return data

    def where(self, counters):
        """Once nothing has moved for a while: the innermost line of the main thread that is the script's own, what it called
        there, and the function of torch.distributed that it is in."""
        now = monotonic()
        counters = [group if not isinstance(group, dict) else (group["enqueued"], group["completed"]) for group in counters]
        if self.still[0] != counters:
            self.still = counters, now
        if now - self.still[1] < STILL:
            return None
        frame, called, distributed = sys._current_frames().get(self.main), None, None
        for _ in range(FRAMES_MAX):
            if frame is None:
                return None
            code = frame.f_code
            if code.co_filename.endswith("distributed_c10d.py"):
                distributed = code.co_name
            if not code.co_filename.startswith(LIBRARIES) and not any(part in code.co_filename for part in PACKAGES):
                break
            if code.co_name != "wrapper":
                called = code.co_name
            frame = frame.f_back
        else:
            return None
        return {
            "file": code.co_filename[-TEXT_MAX:], "line": frame.f_lineno or 0, "name": code.co_name[:TEXT_MAX],
            "calls": called, "distributed": distributed,
        }

    def drill(self):
        """`elastictop drill` leaves a file in the rank's folder, which the user of the job alone can enter."""
        directory = self.directory
        if directory and os.access(self.order, os.F_OK):
            # Not imported: what `import` brings along may take the thread that it runs in for the main one.
            path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "elastictop_drill.py")
            with open(path, "rb") as file:
                code = compile(file.read(), path, "exec")
            drill = {"__name__": "elastictop_drill"}
            exec(code, drill)
            drill["begin"](directory, self.main_thread)

    def part(self, name, read, otherwise):
        try:
            return read()
        except Exception as error:
            self.failed(name, error)
            return otherwise

    def read_identity(self):
        """Read until all are known, as function-mode ranks get these late; kept, as a script may clear its environment."""
        if len(self.identity) == len(IDENTITY):
            return self.identity
        for name in IDENTITY:
            value = os.environ.get(name)
            if value is not None:
                self.identity[name] = int(value)
        return self.identity

    def step(self):
        """The step that the script logged (elastictop.log), else the count of the optimizer that stepped most."""
        module = sys.modules.get("elastictop")
        error = getattr(module, "_write_error", None)
        if isinstance(error, str):
            self.error = error[:TEXT_MAX]
        logged = getattr(module, "_last_step", None)
        if isinstance(logged, tuple):
            return (*logged, "log")
        if self.optimizer_step:
            return (*self.optimizer_step, "optimizer")
        return None, None, None, None

    def count_step(self, optimizer, args, kwargs):
        count = self.optimizer_steps.get(id(optimizer), 0) + 1
        self.optimizer_steps[id(optimizer)] = count
        if self.optimizer_step is None or count > self.optimizer_step[0]:
            self.optimizer_step = count, time(), default_sequence()

    def groups(self):
        c10d = sys.modules.get("torch.distributed.distributed_c10d")
        world = getattr(c10d, "_world", None)  # absent while the module is being imported
        if world is None or not world.pg_map:
            return []
        groups = [(pg, self.describe(world, pg, str(backend))) for pg, (backend, _) in list(world.pg_map.items())]
        for backend in {group["backend"] for _, group in groups}:
            # Before the sequence numbers, so that no collective is completed before it is enqueued.
            self.part("flight recorder", self.recorders.setdefault(backend, Recorder(backend)).read, None)
        known, told = {}, []
        for pg, fixed in groups:
            group = {**fixed, "enqueued": sequence_number(pg), "started": None, "completed": None}
            told.append(group)
            if group["enqueued"]:  # one that is still being made may not have its name yet
                known[id(pg)] = ref(pg), fixed
        self.known = known
        for backend, recorder in self.recorders.items():
            of_backend = [(pg, group["name"], group) for (pg, _), group in zip(groups, told) if group["backend"] == backend]
            self.part("flight recorder", lambda: recorder.fill_in(of_backend), None)
        return told

    def describe(self, world, pg, backend):
        """What does not change of a group. Asking for it each time would be half the cost of a beat."""
        alive, fixed = self.known.get(id(pg), (None, None))
        if fixed is not None and alive() is pg:
            return fixed
        if backend in ("undefined", "custom"):
            backend = str(world.pg_backend_config.get(pg, backend))
        return {
            "name": str(world.pg_names.get(pg, ""))[:TEXT_MAX],
            "desc": str(getattr(pg, "group_desc", ""))[:TEXT_MAX],
            "backend": backend[:TEXT_MAX],
            "size": pg.size(),
            "rank": pg.rank(),
        }


def with_short_path(path, use):
    """Calls `use` with a path to the same place that fits into a socket's address."""
    if len(os.fsencode(path)) <= SUN_PATH_MAX:
        return use(path)
    directory, name = os.path.split(path)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        return use(f"/proc/self/fd/{fd}/{name}")
    finally:
        os.close(fd)


class Recorder:
    """A backend's flight recorder: how far its groups are.

    It knows groups by a number of its own, and only its list of collectives tells which name that is. The list is
    long (17 ms when full), so it is read only for a group that is not known yet."""

    TRIES = 3

    PATIENCE = 3.0  # seconds without a change, after which it is worth knowing which collective it is
    BUDGET = 2000  # of the list's own cost between two such looks: at most 0.05 % of a core

    def __init__(self, backend):
        self.backend = backend
        self.decode = json.JSONDecoder().raw_decode
        self.dump = None
        self.status = {}
        self.ids = {}  # group -> the recorder's number
        self.tries = {}
        self.waits = {}  # group -> (counters, since when they stand, what it waits in or None)
        self.not_before = 0.0

    def read(self):
        self.status = {}
        for dump in recorder_dumps(self.backend):
            status = dump(includeCollectives=False)
            # Half of what json.loads costs for a text this short.
            groups = self.decode(status if isinstance(status, str) else status.decode())[0].get("pg_status")
            if groups:
                self.dump = dump
                self.status = {int(number): status for number, status in groups.items()}
                return

    def fill_in(self, groups):
        # By object too: names return when the script initialises torch.distributed again.
        keys = [(name, id(pg)) for pg, name, _ in groups]
        self.ids = {key: number for key, number in self.ids.items() if key in keys}
        self.tries = {key: tries for key, tries in self.tries.items() if key in keys}
        unknown = [key for key, (_, _, group) in zip(keys, groups)
                   if group["enqueued"] and key not in self.ids and self.tries.get(key, 0) < self.TRIES]
        if unknown and self.status:
            numbers = {entry["process_group"][0]: int(entry["pg_id"])
                       for entry in json.loads(self.dump(includeCollectives=True)).get("entries", ())}
            for key in unknown:
                self.tries[key] = self.tries.get(key, 0) + 1
                if key[0] in numbers:
                    self.ids[key] = numbers[key[0]]
        for key, (_, _, group) in zip(keys, groups):
            status = self.status.get(self.ids.get(key), {})
            group["started"] = reached(status.get("last_started_collective"))
            group["completed"] = reached(status.get("last_completed_collective"))
        self.waits = {key: wait for key, wait in self.waits.items() if key in keys}
        for key, (_, _, group) in zip(keys, groups):
            self.look_closer(key, group)

    def look_closer(self, key, group):
        """Says which collective a group waits in, once it has been waiting for a while."""
        counters = group["enqueued"], group["completed"]
        now = monotonic()
        known, since, op = self.waits.get(key, (None, now, None))
        if known != counters or None in counters or counters[0] == counters[1]:
            self.waits[key] = counters, now, None
            return
        if op is None and now - since >= self.PATIENCE and now >= self.not_before:
            op = self.find_op(self.ids.get(key), counters[1] + 1) or {}
            self.not_before = monotonic() + (monotonic() - now) * self.BUDGET
            self.waits[key] = counters, since, op
        if op:
            group["op"] = op

    def find_op(self, number, sequence):
        """The oldest collective of a group that has not ended, from the recorder's list."""
        for entry in reversed(json.loads(self.dump(includeCollectives=True)).get("entries", ())):
            if int(entry["pg_id"]) == number and int(entry["collective_seq_id"]) == sequence and not entry["is_p2p"]:
                return {
                    "name": str(entry["profiling_name"]).rpartition(":")[2][:TEXT_MAX],
                    "seq": sequence,
                    "shape": json.dumps([entry.get("input_sizes"), entry.get("input_dtypes")])[:TEXT_MAX],
                    "timeout_ms": entry.get("timeout_ms"),
                }
        return None


def recorder_dumps(backend):
    """The functions that may know of a backend's groups; which ones there are depends on torch's version and build."""
    bindings = sys.modules.get("torch._C._distributed_c10d")
    legacy_nccl = getattr(bindings, "_dump_nccl_trace_json", None)
    named = getattr(bindings, "_dump_fr_trace_json", None)
    dumps = [legacy_nccl] if "nccl" in backend and legacy_nccl else []
    recorders = ("nccl2", "nccl-lazy") if "nccl" in backend else ("gloo",) if "gloo" in backend else ()
    for recorder in recorders if named else ():
        dumps.append(lambda includeCollectives, of=recorder: named(includeCollectives=includeCollectives, backend=of))
    return dumps


def sequence_number(pg):
    """Collectives enqueued so far, None before the first or where the backend does not count."""
    try:
        return pg._get_sequence_number_for_group() or None
    except Exception:
        return None


def default_sequence():
    """Collectives enqueued so far in the default group; None where there is none."""
    world = getattr(sys.modules.get("torch.distributed.distributed_c10d"), "_world", None)
    try:
        return sequence_number(world.default_pg)
    except Exception:
        return None


def reached(number):
    """Numbers come as text in some versions; -1 is never."""
    return None if number is None or int(number) < 0 else int(number)


class ImportHook:
    """A meta path finder that calls back when one of `actions`' modules has just been imported."""

    def __init__(self, rank, actions):
        self.rank = rank
        self.actions = actions

    def find_spec(self, name, path=None, target=None):
        if name not in self.actions:
            return None
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find and finder is not self else None
            if spec is not None:
                self.call_after(spec)
                return spec
        return None

    def call_after(self, spec):
        exec_module = getattr(spec.loader, "exec_module", None)

        def exec_module_then_act(module):
            exec_module(module)
            action = self.actions.pop(spec.name, None)
            try:
                if action:
                    action(module)
            except Exception as error:
                self.rank.failed(spec.name, error)

        try:
            # On the loader's instance: its type stays what tools expect.
            spec.loader.exec_module = exec_module_then_act
        except Exception as error:
            self.rank.failed(spec.name, error)


def set_default_timeouts(c10d, text):
    """The default of groups that are made without a timeout; there is no variable for it."""
    seconds = float(text)
    if not 0 < seconds < 1e9:
        raise ValueError(f"ELASTICTOP_COLLECTIVE_TIMEOUT_SEC={text} is no number of seconds")
    timeout = timedelta(seconds=seconds)
    for module in (sys.modules["torch.distributed.constants"], c10d):
        for name in ("default_pg_timeout", "default_pg_nccl_timeout"):
            if getattr(module, name, None) is not None:  # None: a build without NCCL
                setattr(module, name, timeout)


def tell_before_init(wandb):
    """A rank that multiprocessing spawned learns its number late, perhaps after `import wandb`: so W&B's SDK is told
    its run just before it begins one."""
    init = wandb.init

    @wraps(init)
    def told_init(*args, **kwargs):
        try:
            import elastictop

            elastictop._tell_wandb()
        except Exception as error:
            sys.stderr.write(f"elastictop: W&B is left to the script: {error}\n")
        return init(*args, **kwargs)

    wandb.init = told_init


def act_as_rank(address):
    rank = Rank(address)
    actions = {"torch.optim.optimizer": lambda module: module.register_optimizer_step_post_hook(rank.count_step)}
    timeout = os.environ.get("ELASTICTOP_COLLECTIVE_TIMEOUT_SEC")
    if timeout:
        actions["torch.distributed.distributed_c10d"] = lambda module: set_default_timeouts(module, timeout)
    if os.environ.get("ELASTICTOP_RANK_PID") != str(os.getpid()):
        actions["wandb"] = tell_before_init  # else the shim has told it
    sys.meta_path.insert(0, ImportHook(rank, actions))
    rank.start()


def run_next_sitecustomize():
    """The one that this file hides. Its errors go to `site`, which treats them as ever."""
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    own = os.path.dirname(os.path.abspath(__file__))
    path = [os.path.abspath(entry) for entry in sys.path]
    rest = sys.path[path.index(own) + 1:] if own in path else sys.path
    spec = PathFinder.find_spec("sitecustomize", [entry for entry in rest if os.path.abspath(entry) != own])
    if spec is not None:
        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module  # what `import sitecustomize` gives from now on
        spec.loader.exec_module(module)


try:
    if is_rank() and os.environ.get("ELASTICTOP_BEAT"):
        import _thread
        import atexit
        import json
        import signal
        from datetime import timedelta
        from functools import wraps
        from _socket import AF_UNIX, SOCK_DGRAM, SOCK_NONBLOCK, socket  # the one in C: half the cost of a beat's sending
        from _weakref import ref
        from time import monotonic, time

        act_as_rank(os.environ["ELASTICTOP_BEAT"])
except Exception:
    pass  # then this rank is silent, and elastictop says that it never beat

run_next_sitecustomize()

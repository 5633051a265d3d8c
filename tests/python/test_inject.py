"""The Python files that elastictop injects, in real processes and under real torchrun.

    .venv/bin/python -m unittest discover -s tests/python          (.venv: tests/env/make_env.py)
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import unittest
from unittest import mock

ROOT = pathlib.Path(__file__).resolve().parents[2]
INJECT = ROOT / "src" / "supervisor" / "inject"
SCRIPTS = ROOT / "tests" / "scripts"
TIMEOUT = 60

sys.path.insert(0, str(INJECT))
sys.dont_write_bytecode = True
import elastictop  # noqa: E402


class Beats:
    """Stands in for the supervisor: receives datagrams and keeps them."""

    def __init__(self, path):
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.directory = os.open(path.parent, os.O_PATH)  # as the path may be too long for bind
        self.socket.bind(f"/proc/self/fd/{self.directory}/{path.name}")
        self.seen = []
        self.news = threading.Condition()
        self.receiver = threading.Thread(target=self.receive, daemon=True)
        self.receiver.start()

    def receive(self):
        while data := self.socket.recv(1 << 17):
            with self.news:
                self.seen.append(json.loads(data))
                self.news.notify_all()

    def wait_for(self, what, condition):
        """Returns `condition(datagrams so far)` when it is true."""
        with self.news:
            if not self.news.wait_for(lambda: condition(self.seen), TIMEOUT):
                raise AssertionError(f"no {what} in {TIMEOUT} s; last datagrams: {self.seen[-4:]}")
            return condition(self.seen)

    def settle(self):
        """Call when the senders have ended: all they sent is in the socket's queue, and this comes behind it."""
        self.send(b'{"kind": "settled"}')
        self.wait_for("settling", lambda seen: seen and seen[-1]["kind"] == "settled")
        self.seen.pop()
        return self.seen

    def send(self, data):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(data, self.socket.getsockname())

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.receiver.join()
        self.socket.close()
        os.close(self.directory)


class InjectTest(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.dir = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="inject-")))
        self.beats = Beats(self.dir / "beat")
        self.addCleanup(self.beats.close)
        self.stop = self.dir / "stop"
        self.shim = self.file("shim", '#!/bin/sh\nexport ELASTICTOP_RANK_PID=$$\nexec "$@"\n')
        self.shim.chmod(0o755)
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {
            "PYTHONPATH": str(INJECT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONWARNINGS": "ignore",
            "OMP_NUM_THREADS": "1",
            "ELASTICTOP_BEAT": self.beats.path,
            "ELASTICTOP_JOB_DIR": str(self.dir),
            "ELASTICTOP_RANK_DIR": str(self.dir),
            "STOP": str(self.stop),
        }

    def file(self, name, text):
        path = self.dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def start(self, *command, **env):
        """A process group of its own, ended with the test whatever happens."""
        process = subprocess.Popen(list(map(str, command)), env=self.env | env, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, cwd=self.dir, start_new_session=True)
        self.addCleanup(self.end, process)
        return process

    def end(self, process):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()
        process.stderr.close()

    def finish(self, process):
        out, err = process.communicate(timeout=TIMEOUT)
        return process.returncode, out, err

    def as_rank(self, script, *flags, **env):
        return self.finish(self.start(self.shim, sys.executable, *flags, self.file("script.py", script), **env))

    def torchrun(self, script, *args, **env):
        return self.start(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
                          "--no-python", self.shim, sys.executable, "-u", script, *args, ELASTICTOP_AGENT="1", **env)


class UnderTorchrun(InjectTest):
    def test_steps_and_collectives_advance_in_the_beats_of_ranks_only(self):
        script = self.file("train.py", """
            import multiprocessing, os, subprocess, sys
            import torch, torch.distributed as dist
            def load(life):
                try: life.recv()
                except EOFError: pass
            if __name__ == "__main__":
                ends = []
                for method in ("fork", "spawn"):  # data loaders
                    ours, theirs = multiprocessing.Pipe()
                    multiprocessing.get_context(method).Process(target=load, args=(theirs,), daemon=True).start()
                    ends.append((ours, theirs))
                other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
                dist.init_process_group("gloo")
                gone = dist.new_group([0, 1])
                dist.all_reduce(torch.ones(1), group=gone)
                dist.destroy_process_group(gone)
                pair = dist.new_group([0, 1], group_desc="pair")
                model = torch.nn.Linear(2, 1)
                optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
                stop = torch.zeros(1)
                while not stop:
                    model(torch.ones(1, 2)).sum().backward()
                    optimizer.step()
                    stop = torch.tensor([float(os.path.exists(os.environ["STOP"]))])
                    dist.all_reduce(stop)
                    dist.all_reduce(torch.ones(1), group=pair)
                    dist.all_reduce(torch.ones(1), group=pair)
                dist.barrier()
                dist.destroy_process_group()
                other.communicate(b"\\n")
        """)
        job = self.torchrun(script)

        def two_beats_each(seen):
            full = {0: [], 1: []}
            for beat in seen:
                if len(beat["groups"]) == 2 and beat["step"] and beat["groups"][1]["completed"]:
                    full[beat["rank"]].append(beat)
            return full if all(len(beats) >= 2 for beats in full.values()) else None

        full = self.beats.wait_for("two full beats of each rank", two_beats_each)
        self.stop.touch()
        code, _, err = self.finish(job)
        self.assertEqual(code, 0, err)
        for rank, (first, second, *_) in full.items():
            self.assertEqual(second["error"], None)
            self.assertEqual((second["local_rank"], second["world_size"], second["restart_count"]), (rank, 2, 0))
            self.assertEqual(second["step_source"], "optimizer")
            self.assertGreater(second["step"], first["step"])
            self.assertLessEqual(second["step_at"], second["at"])
            world, pair = second["groups"]
            self.assertEqual([(g["desc"], g["backend"], g["size"], g["rank"]) for g in (world, pair)],
                             [("default_pg", "gloo", 2, rank), ("pair", "gloo", 2, rank)])
            for before, after in zip(first["groups"], second["groups"]):
                self.assertGreater(after["enqueued"], before["enqueued"])
                self.assertGreater(after["completed"], before["completed"])
                self.assertIn(after["enqueued"] - after["completed"], (0, 1, 2))
                self.assertIsNone(after["started"])
            self.assertGreater(pair["completed"], world["completed"])
        seen = self.beats.settle()
        self.assertEqual(len({datagram["pid"] for datagram in seen}), 2)
        for rank in (0, 1):
            own = [datagram for datagram in seen if datagram["rank"] == rank]
            self.assertEqual([own[0]["kind"], own[-1]["kind"]], ["hello", "bye"])
            self.assertEqual([datagram["n"] for datagram in own], list(range(len(own))))

    def test_a_rank_answers_questions_and_serves_its_recorder_though_a_forked_child_ends(self):
        script = self.file("train.py", """
            import os, sys, time
            import torch, torch.distributed as dist
            def train_step(): dist.all_reduce(torch.ones(1))
            dist.init_process_group("gloo")
            dist.all_reduce(torch.ones(1))
            if os.environ["RANK"] == "1":
                while not os.path.exists(os.environ["BEAT"] + f".srv.{os.getpid()}"): time.sleep(0.02)
                if os.fork() == 0: sys.exit(0)  # collects all objects, the server's too
                os.wait()
                while not os.path.exists(os.environ["STOP"]): time.sleep(0.02)
            train_step()
        """)
        job = self.torchrun(script, BEAT=self.beats.path)
        seen = self.beats.wait_for("both ranks", lambda all: (found := {
            beat["rank"]: beat["pid"] for beat in all if beat["groups"]}) and len(found) == 2 and found)

        def ask(pid, word):
            answer = self.dir / "answer"
            ask = pathlib.Path(f"{self.beats.path}.ask.{pid}")
            (self.dir / "asking").write_text(f"{word}\n{answer}\n")
            os.rename(self.dir / "asking", ask)
            until = time.monotonic() + TIMEOUT
            while not answer.exists():
                self.assertLess(time.monotonic(), until, f"no answer to {word}")
                time.sleep(0.02)
            text = answer.read_text()
            answer.unlink()
            self.assertFalse(ask.exists())
            return json.loads(text)

        main, = [thread for thread in ask(seen[0], "stacks")["threads"] if thread["is_main"]]
        self.assertIn("train_step", [frame["name"] for frame in main["frames"]])
        flight = ask(seen[0], "flight")
        self.assertEqual(flight["groups"]["0"], {"name": "0", "desc": "default_pg", "ranks": [0, 1]})
        self.assertEqual(flight["dumps"][0]["entries"][-1]["profiling_name"], "gloo:all_reduce")
        for pid in seen.values():
            with socket.socket(socket.AF_UNIX) as server:
                server.settimeout(TIMEOUT)
                server.connect(f"{self.beats.path}.srv.{pid}")
                server.sendall(b"POST /handler/ping HTTP/1.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                self.assertIn(b"200 OK", server.recv(1000))
        self.stop.touch()
        code, _, err = self.finish(job)
        self.assertEqual(code, 0, err)

    def test_a_collective_that_one_rank_does_not_join_ends_after_the_timeout_set(self):
        job = self.torchrun(SCRIPTS / "hang.py", "--step=2", ELASTICTOP_COLLECTIVE_TIMEOUT_SEC="2")
        code, _, err = self.finish(job)
        self.assertEqual(code, 1)
        self.assertIn("Timed out waiting 2000ms", err)
        seen = {(datagram["rank"], group["enqueued"], group["completed"])
                for datagram in self.beats.settle() for group in datagram["groups"]}
        # Rank 0 waits in the third, which rank 1 does not join. By its end, gloo counts the failed one as completed.
        self.assertIn((0, 3, 2), seen)
        self.assertEqual(max(enqueued for rank, enqueued, _ in seen if rank == 1), 2)

    def test_ranks_of_function_mode_beat(self):
        script = self.file("launch.py", """
            import os, time
            from torch.distributed.launcher.api import LaunchConfig, elastic_launch
            def train():
                import elastictop
                elastictop.log({"loss": 1.0}, step=7)
                while not os.path.exists(os.environ["STOP"]): time.sleep(0.02)
            if __name__ == "__main__":
                elastic_launch(LaunchConfig(1, 1, 2, rdzv_backend="c10d", rdzv_endpoint="localhost:0"), train)()
        """)
        del self.env["ELASTICTOP_RANK_DIR"]
        job = self.start(sys.executable, script, ELASTICTOP_AGENT="1")
        steps = self.beats.wait_for("step of both ranks", lambda seen: both(
            {d["rank"]: (d["pid"], d["step"], d["step_source"], d["world_size"]) for d in seen if d["step"]}))
        self.stop.touch()
        code, _, err = self.finish(job)
        self.assertEqual(code, 0, err)
        self.assertEqual({pid for pid, *_ in steps.values()}, {d["pid"] for d in self.beats.settle()})
        for pid, *told in steps.values():
            self.assertEqual(told, [7, "log", 2])
            [metrics] = self.dir.glob(f"ranks/{pid}-*/metrics.jsonl")
            self.assertEqual(json.loads(metrics.read_text())["loss"], 1.0)


def both(by_rank):
    return by_rank if {0, 1} <= by_rank.keys() else None


# A stand-in for torch: what the hooks touch, and nothing that takes a second to import.
FAKE_TORCH = {
    "torch/__init__.py": "",
    "torch/distributed/__init__.py": "",
    "torch/distributed/constants.py": "default_pg_timeout = 'as it was'\ndefault_pg_nccl_timeout = None\n",
    "torch/distributed/distributed_c10d.py": "from .constants import default_pg_timeout, default_pg_nccl_timeout\n",
    "torch/optim/__init__.py": "",
    "torch/optim/optimizer.py": "def register_optimizer_step_post_hook(hook): raise RuntimeError('no such hook')\n",
}


class InOneProcess(InjectTest):
    def fake_torch(self):
        for name, text in FAKE_TORCH.items():
            self.file(f"fake/{name}", text)
        return f"{INJECT}:{self.dir / 'fake'}"

    def bye(self):
        return self.beats.settle()[-1]

    def test_log_writes_rows_and_sets_the_step(self):
        code, _, err = self.as_rank("""
            import elastictop
            class Scalar:
                def item(self): return 2.5
            class Other:
                def __str__(self): return "other"
            elastictop.log({"loss": float("nan"), "lr": float("inf")})
            elastictop.log({"a": Scalar(), "b": Other(), "c": {"d": [1, None]}})
            elastictop.log({"loss": 1}, step=41)
            elastictop.log({"loss": 2})
        """)
        self.assertEqual((code, err), (0, ""))
        text = (self.dir / "metrics.jsonl").read_text()
        self.assertIn('"loss": NaN, "lr": Infinity', text)
        rows = [json.loads(line) for line in text.splitlines()]
        self.assertEqual([list(row)[:2] for row in rows], [["_step", "_timestamp"]] * 4)
        self.assertEqual([row["_step"] for row in rows], [0, 1, 41, 42])
        self.assertEqual([row.get("_commit") for row in rows], [True, True, None, True])
        self.assertEqual((rows[1]["a"], rows[1]["b"], rows[1]["c"]), (2.5, "other", {"d": [1, None]}))
        bye = self.bye()
        self.assertEqual((bye["step"], bye["step_source"], bye["step_at"]), (42, "log", rows[3]["_timestamp"]))

    def test_a_row_that_cannot_be_written_is_told_and_not_raised(self):
        code, _, err = self.as_rank("import elastictop; elastictop.log({'loss': 1})",
                                    ELASTICTOP_RANK_DIR=str(self.dir / "absent"))
        self.assertEqual((code, err), (0, ""))
        self.assertIn("row of step 0 is lost", self.bye()["error"])

    def test_the_users_sitecustomize_runs_once_as_itself(self):
        text = "import sys; print(__name__, sys.modules[__name__].__file__ == __file__)"
        user = self.file("user/sitecustomize.py", text)
        path = f"{INJECT}:{user.parent}"
        ask = "import sitecustomize; print(sitecustomize.__file__)"
        told = f"sitecustomize True\n{user}\n"
        for name, shim in ("rank", [self.shim]), ("other process", []), ("agent", ["env", "ELASTICTOP_AGENT=1"]):
            with self.subTest(name):
                result = self.finish(self.start(*shim, sys.executable, "-c", ask, PYTHONPATH=path))
                self.assertEqual(result, (0, told, ""))

    def test_errors_of_the_users_sitecustomize_are_as_without_us(self):
        for text in ("1 / 0", "import absent", "raise SystemExit(3)", "import sys; sys.path.insert(0, '/x')"):
            user = self.file("user/sitecustomize.py", text)
            command = [sys.executable, "-c", "import sys; print('sitecustomize' in sys.modules, '/x' in sys.path)"]
            plain = self.finish(self.start(*command, PYTHONPATH=str(user.parent)))
            ours = self.finish(self.start(self.shim, *command, PYTHONPATH=f"{INJECT}:{user.parent}"))
            # SystemExit ends the interpreter with a traceback, which has our frame as well.
            with self.subTest(text):
                self.assertEqual(plain[:2], ours[:2])
                self.assertEqual(plain[2].splitlines()[-1:], ours[2].splitlines()[-1:])

    def test_interpreters_that_skip_it_run(self):
        for flag in ("-S", "-I", "-E"):
            with self.subTest(flag):
                self.assertEqual(self.as_rank("print('ran')", flag), (0, "ran\n", ""))
        self.assertEqual(self.beats.settle(), [])

    SCRIPT = "import sys; print('out'); print('err', file=sys.stderr); raise SystemExit(3)"
    RESULT = (3, "out\n", "err\n")

    def test_no_or_a_nonsense_socket_changes_nothing(self):
        for address in ("", "/absent/beat", "nonsense", "/dev/null", "x" * 5000, "/tmp/" + "y" * 200, "\udcff"):
            with self.subTest(address[:20]):
                self.assertEqual(self.as_rank(self.SCRIPT, ELASTICTOP_BEAT=address), self.RESULT)

    def test_a_full_socket_changes_nothing(self):
        full = self.enterContext(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        full.bind(str(self.dir / "full"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            with self.assertRaises(BlockingIOError):
                while True:
                    sender.sendto(b"x", str(self.dir / "full"))
        self.assertEqual(self.as_rank(self.SCRIPT, ELASTICTOP_BEAT=str(self.dir / "full")), self.RESULT)

    def test_a_long_socket_path_is_reached(self):
        directory = self.dir / ("d" * 120)
        directory.mkdir()
        beats = Beats(directory / "beat")
        self.addCleanup(beats.close)
        self.assertEqual(self.as_rank(self.SCRIPT, ELASTICTOP_BEAT=beats.path), self.RESULT)
        self.assertEqual([datagram["kind"] for datagram in beats.settle()], ["hello", "bye"])

    def test_a_failing_hook_is_told_and_not_raised(self):
        path = self.fake_torch()
        self.assertEqual(self.as_rank("import torch.optim.optimizer\n" + self.SCRIPT, PYTHONPATH=path), self.RESULT)
        self.assertEqual(self.bye()["error"], "torch.optim.optimizer: RuntimeError: no such hook")

    def test_a_junk_timeout_is_told_and_the_default_kept(self):
        path = self.fake_torch()
        script = "import torch.distributed.distributed_c10d as c\nprint(c.default_pg_timeout)"
        for junk in ("junk", "-1", "nan", "1e300"):
            with self.subTest(junk):
                result = self.as_rank(script, PYTHONPATH=path, ELASTICTOP_COLLECTIVE_TIMEOUT_SEC=junk)
                self.assertEqual(result, (0, "as it was\n", ""))
                self.assertIn("torch.distributed.distributed_c10d: ValueError: ", self.bye()["error"])

    def test_the_timeout_is_set_once_torch_is_imported(self):
        path = self.fake_torch()
        script = """
            import importlib.util
            importlib.util.find_spec("torch.distributed.distributed_c10d")  # looking is not importing
            import torch.distributed.distributed_c10d as c
            from torch.distributed import constants
            print(c.default_pg_timeout, constants.default_pg_timeout, c.default_pg_nccl_timeout)
        """
        result = self.as_rank(script, PYTHONPATH=path, ELASTICTOP_COLLECTIVE_TIMEOUT_SEC="90")
        self.assertEqual(result, (0, "0:01:30 0:01:30 None\n", ""))

    def test_what_scripts_do_to_their_process_is_survived(self):
        """Also: the script sees no thread of ours, and its signals stay its own."""
        code, out, err = self.as_rank("""
            import io, os, signal, sys, threading
            print(threading.active_count())
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            os.kill(os.getpid(), signal.SIGTERM)
            print(signal.sigwait({signal.SIGTERM}).name, flush=True)
            os.closerange(3, 100)
            os.environ.clear()
            pid = os.fork()
            if pid == 0: sys.exit(5)  # runs the exit handlers that it inherited
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
            sys.stdout = io.StringIO()
        """, RANK="4")
        self.assertEqual((code, out, err), (0, "1\nSIGTERM\n5\n", ""))
        seen = self.beats.settle()
        self.assertEqual([(d["kind"], d["rank"]) for d in seen], [("hello", 4), ("bye", 4)])

    def test_a_rank_that_execs_itself_goes_on_beating(self):
        self.as_rank("""
            import os, sys
            if len(sys.argv) == 1: os.execv(sys.executable, [sys.executable, __file__, "again"])
        """)
        seen = self.beats.settle()
        self.assertEqual([d["kind"] for d in seen], ["hello", "hello", "bye"])
        self.assertEqual(len({d["pid"] for d in seen}), 1)

    def test_beats_reach_a_supervisor_that_came_back(self):
        process = self.start(self.shim, sys.executable, "-c", "import signal; signal.pause()")
        self.beats.wait_for("hello", lambda seen: seen)
        os.unlink(self.beats.path)
        successor = Beats(self.dir / "beat")
        self.addCleanup(successor.close)
        [beat, *_] = successor.wait_for("beat", lambda seen: list(seen))
        self.assertEqual((beat["kind"], beat["pid"]), ("beat", process.pid))

    def order(self, process, fault, seconds=0.2, at=None, pid=None, mode=0o600):
        new = self.dir / "drill.new"
        new.write_text(json.dumps({"fault": fault, "seconds": seconds, "pid": pid or process.pid, "at": at or time.time()}))
        new.chmod(mode)
        new.rename(self.dir / "drill.json")

    def drilled(self, outcome, *orders, **env):
        """Gives what a rank that goes round and round says at its end, and whether it took the orders."""
        script = self.file("round.py", """
            import os
            rounds = 0
            try:
                while not os.path.exists(os.environ["STOP"]):
                    rounds += 1
            except MemoryError:
                print("out of memory")
        """)
        process = self.start(self.shim, sys.executable, script, **env)
        self.beats.wait_for("a beat", lambda seen: len(seen) > 1)
        for order in orders:
            self.order(process, **order)
            due = time.monotonic() + TIMEOUT
            while not (self.dir / outcome).exists():
                self.assertLess(time.monotonic(), due, os.listdir(self.dir))
                time.sleep(0.02)
            (self.dir / outcome).unlink()
        before = len(self.beats.seen)
        if process.poll() is None and orders[-1]["fault"] != "oom":
            self.beats.wait_for("beats after the fault", lambda seen: len(seen) > before + 1)
            self.stop.touch()
        return self.finish(process)

    def test_faults_are_made_on_order_and_end_by_themselves(self):
        faults = [{"fault": fault} for fault in ("hang", "busy", "read", "gil")]
        self.assertEqual(self.drilled("drill.taken.json", *faults), (0, "", ""))

    def test_the_fault_for_memory_is_the_error_alone(self):
        self.assertEqual(self.drilled("drill.taken.json", {"fault": "oom"}), (0, "out of memory\n", ""))

    def test_orders_that_are_old_of_others_or_unknown_are_refused(self):
        bad = [{"fault": "hang", "at": time.time() - 60}, {"fault": "hang", "pid": 1}, {"fault": "format the disk"},
               {"fault": "hang", "mode": 0o666}]
        self.assertEqual(self.drilled("drill.refused.json", *bad), (0, "", ""))

    def test_drills_can_be_forbidden(self):
        self.assertEqual(self.drilled("drill.refused.json", {"fault": "hang"}, ELASTICTOP_DRILL="0"), (0, "", ""))

    def test_a_rank_that_stands_still_says_where(self):
        rank = self.start(self.shim, sys.executable, self.file("train.py", """
            import os, queue, threading, time
            def feed(wait):
                time.sleep(1000)  # not the main thread
            threading.Thread(target=feed, args=(0,), daemon=True).start()
            def load():
                empty = queue.Queue()
                return empty.get()
            load()
        """))
        told = self.beats.wait_for("place", lambda seen: next((beat["where"] for beat in seen if "where" in beat), None))
        self.assertEqual((told["line"], told["name"], told["calls"], told["distributed"]), (8, "load", "get", None))
        self.assertTrue(told["file"].endswith("/train.py"), told)
        before = [beat for beat in self.beats.seen if beat["kind"] == "beat" and "where" not in beat]
        self.assertGreaterEqual(len(before), 1, "not while it may be on its way")
        os.killpg(rank.pid, signal.SIGKILL)

    def test_a_rank_that_waits_for_its_peers_says_in_which_call(self):
        torchrun = self.torchrun(self.file("meet.py", """
            import os, time
            import torch.distributed as dist
            if os.environ["RANK"] == "0":
                time.sleep(1000)
            dist.init_process_group("gloo")
        """))
        places = lambda seen: {beat["rank"]: (beat["where"]["line"], beat["where"]["distributed"])
                               for beat in seen if beat.get("where", {}).get("name") == "<module>"}
        met = {0: (5, None), 1: (6, "init_process_group")}
        self.beats.wait_for("meeting", lambda seen: places(seen) == met)
        os.killpg(torchrun.pid, signal.SIGKILL)

    def test_a_loss_that_is_no_number_is_told(self):
        code, _, err = self.as_rank("""
            import elastictop, os, time
            elastictop.log({"loss": 0.5, "lr": float("inf")}, step=1)
            elastictop.log({"loss": float("nan")}, step=2)
            elastictop.log({"train_loss": float("inf"), "note": "x"}, step=3)
            elastictop.log({"lr": 0.1}, step=4)
        """)
        self.assertEqual((code, err), (0, ""))
        self.assertEqual(self.beats.settle()[-1]["nan"], {"key": "train_loss", "step": 3, "rows": 2})

    def test_a_process_that_is_no_rank_imports_next_to_nothing(self):
        code, out, _ = self.finish(self.start(sys.executable, "-c", "import sys; print(*sorted(sys.modules))",
                                              ELASTICTOP_RANK_PID="1"))
        self.assertEqual(code, 0)
        self.assertFalse({"json", "socket", "signal", "threading", "atexit", "datetime"} & set(out.split()))


class ElastictopModule(unittest.TestCase):
    def test_log_checks_its_arguments_wherever_it_runs(self):
        with mock.patch.dict(os.environ, clear=True):
            elastictop.log({"loss": 1.0})
            for metrics, step, error in (
                ([1], None, TypeError), ({1: 2}, None, TypeError), ({"_step": 1}, None, ValueError),
                ({}, 1.5, TypeError),
            ):
                with self.subTest(metrics=metrics, step=step), self.assertRaises(error):
                    elastictop.log(metrics, step)

    def info(self, **variables):
        with mock.patch.dict(os.environ, variables, clear=True):
            info = elastictop.get_distributed_info()
        return info and tuple(vars(info).values())

    def test_distributed_info(self):
        self.assertIsNone(self.info())
        self.assertIsNone(self.info(RANK="0"))
        self.assertIsNone(self.info(RANK="junk", WORLD_SIZE="1"))
        self.assertEqual(self.info(RANK="3", WORLD_SIZE="4"), (3, 0, 4, 4, 0, 1))
        node = dict(WORLD_SIZE="8", LOCAL_WORLD_SIZE="4", GROUP_RANK="1")
        self.assertEqual(self.info(RANK="6", LOCAL_RANK="2", **node), (6, 2, 8, 4, 1, 2))

    def test_a_virtual_local_rank_is_seen_through(self):
        node = dict(WORLD_SIZE="8", LOCAL_WORLD_SIZE="4", GROUP_RANK="1", LOCAL_RANK="0")
        self.assertEqual(self.info(RANK="6", **node), (6, 2, 8, 4, 1, 2))
        self.assertEqual(self.info(RANK="4", **node), (4, 0, 8, 4, 1, 2))
        uneven = dict(WORLD_SIZE="5", LOCAL_WORLD_SIZE="2", GROUP_RANK="1", LOCAL_RANK="0")
        self.assertEqual(self.info(RANK="3", **uneven), (3, 0, 5, 2, 1, 2))

    def test_a_bad_variable_is_named(self):
        with self.assertRaisesRegex(ValueError, "RANK='x' is not a whole number"):
            self.info(RANK="x", WORLD_SIZE="2")

    def run_of(self, wandb=None, **variables):
        modules = {"wandb": wandb} if wandb else {}
        with mock.patch.dict(os.environ, variables, clear=True), mock.patch.dict(sys.modules, modules):
            return elastictop.get_run()

    def test_get_run_is_what_the_rank_writes_to(self):
        active = mock.Mock(run=mock.Mock(disabled=False, id="active"))
        idle = mock.Mock(run=None)
        disabled = mock.Mock(run=mock.Mock(disabled=True))
        by_us = dict(ELASTICTOP_RANK_WRITER="elastictop", ELASTICTOP_RANK_RUN="exp-a0")
        by_script = by_us | dict(ELASTICTOP_RANK_WRITER="script")
        self.assertIsNone(self.run_of(), "not started by elastictop")
        self.assertEqual(self.run_of(active).id, "active")
        self.assertEqual(self.run_of(**by_us).id, "exp-a0")
        self.assertIs(self.run_of(active, **by_us), active.run)
        self.assertIsNone(self.run_of(idle, **by_script), "before wandb.init()")
        self.assertIs(self.run_of(active, **by_script), active.run)
        for writer in ("elastictop", "script", "disabled"):
            for wandb in (None, idle, disabled, active):
                self.assertIsNone(self.run_of(wandb, ELASTICTOP_RANK_WRITER=writer), "a silent rank")

    def test_the_run_that_elastictop_writes_logs_as_elastictop_does(self):
        run = self.run_of(ELASTICTOP_RANK_WRITER="elastictop", ELASTICTOP_RANK_RUN="exp-a0")
        with mock.patch.object(elastictop, "log") as log:
            run.log({"loss": 1.0}, step=3)
        log.assert_called_once_with({"loss": 1.0}, 3, None)
        self.assertIn("exp-a0", repr(run))


if __name__ == "__main__":
    unittest.main()

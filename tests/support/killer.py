"""Runs `lit-od` commands and kills them: `python -m tests.support.killer`, a job as a line of JSON on standard input.

Commands run in forks of this process, which has imported what they need, so that a hundred of them take
no hour; a job may ask for a new interpreter instead. Each answer is the exit status, -9 where the
process was killed. It waits for its own children alone and kills no other process.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from lit_od import cli
from lit_od.formats import atomic as folders

EVENTS = ("open", "os.", "shutil.", "fcntl.", "ctypes.dl")
"""Audit events of what touches the disk."""


def main() -> None:
    """Take jobs.

    Keys of a job: words, of the command line; exchange, whether the system can exchange two folders; step, the
    number of the event, counted from the first on a folder beside the bundle, before which the process kills
    itself; beside, the folder to watch for a new folder, and delay, seconds from its appearance, or from the
    start, to the kill; fresh, whether to run a new interpreter; here, whether to run in this process, whose
    forks then find everything warm.
    """
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    for line in sys.stdin:
        job = json.loads(line)
        if job.get("here"):
            print(cli.main(job["words"]), file=channel)
            continue
        process = _fresh(job) if job.get("fresh") else _fork(job)
        if "delay" in job:
            _kill(process, job.get("beside"), job["delay"])
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        print(status, file=channel)


def _fresh(job: dict[str, Any]) -> int:
    return os.posix_spawn(sys.executable, [sys.executable, "-m", "lit_od.cli", *job["words"]], os.environ)


def _fork(job: dict[str, Any]) -> int:
    process = os.fork()
    if process == 0:
        if not job["exchange"]:
            folders._rename_exchange = lambda one, other: False
        if "step" in job:
            _kill_before(job["step"])
        os._exit(cli.main(job["words"]))
    return process


def _kill_before(step: int) -> None:
    done = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal done
        if event.startswith(EVENTS) and (done or ".lit-od-" in str(arguments)):
            done += 1
            if done == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def _kill(process: int, beside: str | None, delay: float) -> None:
    """Kill a child once a new folder has been seen and the delay is over, unless it has ended before."""
    if beside is not None:
        there = set(Path(beside).iterdir())
        while set(Path(beside).iterdir()) == there and not _ended(process):
            time.sleep(0.0003)
    time.sleep(delay)
    os.kill(process, signal.SIGKILL)  # ended or not, its number is its own until it is waited for


def _ended(process: int) -> bool:
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


if __name__ == "__main__":
    main()

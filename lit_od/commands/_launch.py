"""The processes of one job: those that torchrun or SLURM has started, or those that a command starts itself.

Torch is loaded where there are several, and by them alone.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lit_od.commands._status import INTERRUPTED
from lit_od.errors import ConfigError, missing_extra
from lit_od.runtime.processes import ALONE, Group, place
from lit_od.runtime.threads import available_threads

GRACE = 10.0
"""Seconds that the others have to end by themselves once one has failed, and again once they are asked to."""

_POLL = 0.05

_HELD = "LIT_OD_HELD"
"""Set where standard input is a pipe that whoever has started this process holds open."""


def each_process(work: Callable[[Group], int]) -> int:
    """Do a command's work, in each of the processes that have been started for it; the exit status.

    What stops one of them stops all; one says why.
    """
    if os.environ.pop(_HELD, None) is not None:
        _end_with_starter()
    where = place()
    if where is None:
        return work(ALONE)
    # torch would tell at length, from its inside, that another process has ended
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        from lit_od.training.distributed import run_distributed
    except ModuleNotFoundError as error:
        missing_extra(str(error.name), "train,cpu")
    return run_distributed(where, work)


def wanted(trainer: Mapping[str, Any]) -> int:
    """How many processes a recipe's trainer asks this command to start: one a device.

    Raises:
        ConfigError: If several machines are asked for, which no process can start.
    """
    if place() is not None:
        return 1
    if (nodes := trainer.get("num_nodes", 1)) not in (1, "1"):
        raise ConfigError(f"trainer.num_nodes {nodes}: start a process a device on every machine, by torchrun or srun")
    devices = trainer.get("devices", 1)
    if isinstance(devices, str) and re.fullmatch(r"-?\d+", devices):
        devices = int(devices)
    if isinstance(devices, list):
        return max(1, len(devices))
    if isinstance(devices, int) and devices != -1:
        return max(1, devices)
    if trainer.get("accelerator", "auto") not in ("auto", "gpu", "cuda"):
        return 1
    from lit_od.training.distributed import gpus

    return max(1, gpus())


def words_of(name: str, args: Namespace, overrides: Sequence[str]) -> list[str]:
    """The command line that a command's arguments were parsed from, its own program name left out."""
    words = [name]
    for key, value in vars(args).items():
        option = f"--{key.replace('_', '-')}"
        match value:
            case None | False:
                continue
            case True:
                words.append(option)
            case list():
                words += [f"{option}={each}" for each in value]
            case _:
                words.append(str(value) if key in ("recipe", "checkpoint") else f"{option}={value}")
    return [*words, *overrides]


def launch(count: int, words: Sequence[str]) -> int:
    """Run `lit-od` with the given words in so many processes of this machine; the exit status of the first to fail."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "OMP_NUM_THREADS": str(max(1, available_threads() // count)),
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        _HELD: "yes",
    }
    command = [sys.executable, "-m", "lit_od.cli", *words]
    running: list[subprocess.Popen[bytes]] = []

    def stop(number: int, frame: object) -> None:
        for process in running:
            process.send_signal(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        for rank in range(count):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            running.append(subprocess.Popen(command, env=shared | own, stdin=subprocess.PIPE))
        return _watch(running)
    except KeyboardInterrupt:  # a terminal interrupts all of them, and one says so
        _end(running)
        if INTERRUPTED in (process.poll() for process in running):
            return INTERRUPTED
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        for process in running:
            if process.poll() is None:
                process.kill()
            process.communicate()


def _watch(running: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all; after the first failure end the others. The first failure's status, else 0."""
    while True:
        codes = [process.poll() for process in running]
        failed = next((code for code in codes if code), 0)
        if failed or None not in codes:
            break
        time.sleep(_POLL)
    if failed == -signal.SIGKILL:
        # it cannot say so itself
        print(f"lit-od: process {codes.index(failed)} of {len(codes)} was killed", file=sys.stderr)
    _end(running)
    return 128 - failed if failed < 0 else failed


def _end(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until all have ended: by themselves, else asked to, else killed."""
    for force in (subprocess.Popen.terminate, subprocess.Popen.kill):
        deadline = time.monotonic() + GRACE
        while any(process.poll() is None for process in running):
            if time.monotonic() > deadline:
                for process in running:
                    force(process)
                break
            time.sleep(_POLL)


def _end_with_starter() -> None:
    """End this process at once when the one that has started it is gone, even if that was killed.

    Else it would go on, and the job started again would write into the same run.
    """
    held = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def watch() -> None:
        os.read(held, 1)  # nothing is ever written: it returns once the other end is closed
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

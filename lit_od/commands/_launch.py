"""Run a command in the processes of one job, or start them.

The processes are started by torchrun, by SLURM or by a command. Torch is loaded only where there are several. Torch's
launcher does not serve: it gives each process a new session, where Ctrl-C does not reach it and where it outlives a
launcher that is killed; it ends the others before they can end by themselves, and reports a failure at length.
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

from lit_od.commands._arguments import extra
from lit_od.commands._status import INTERRUPTED
from lit_od.errors import ConfigError
from lit_od.runtime.processes import ALONE, Group, place
from lit_od.runtime.threads import available_threads

GRACE = 10.0
"""Seconds that others have to end by themselves once one has failed, and again after SIGTERM."""

ALL = -1
"""Devices of a trainer: every GPU of this machine."""

_POLL = 0.05

_HELD = "LIT_OD_HELD"
"""Variable that is set where standard input is a pipe that the starter holds open."""


def each_process(work: Callable[[Group], int]) -> int:
    """Do a command's work in each process that was started for it.

    A process that stops stops all; one reports why.

    Args:
        work: The work, given the processes; it returns an exit status.

    Returns:
        The exit status.
    """
    if os.environ.pop(_HELD, None) is not None:
        _end_with_starter()
    where = place()
    if where is None:
        return work(ALONE)
    # else torch reports at length that another process has ended
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with extra():
        from lit_od.training.distributed import run_distributed
    return run_distributed(where, work)


def process_count(trainer: Mapping[str, Any]) -> int:
    """Return the number of processes that this command starts: one a device.

    Args:
        trainer: Options of the recipe's trainer.

    Raises:
        ConfigError: If several machines are asked for, which no process can start, or the devices are none of this
            machine's.
    """
    if place() is not None:
        return 1
    if (nodes := trainer.get("num_nodes", 1)) not in (1, "1"):
        raise ConfigError(f"trainer.num_nodes {nodes}: start a process a device on every machine, by torchrun or srun")
    devices = _devices(trainer.get("devices", 1))
    if isinstance(devices, int) and devices != ALL:
        return devices
    on_gpus = trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda")
    if devices == ALL and not on_gpus:
        return 1
    with extra():
        from lit_od.training.distributed import gpus
    there = gpus() if on_gpus else 0
    if isinstance(devices, int):
        return max(1, there)
    if absent := [each for each in devices if each >= there]:
        raise ConfigError(
            f"trainer.devices names GPU {absent[0]}, and this run has {there} of them: give the numbers of GPUs, from "
            "0, or the number of processes, such as 2"
        )
    return len(devices)


def _devices(given: Any) -> int | list[int]:
    """Return a number of processes, `ALL`, or numbers of GPUs."""
    if isinstance(given, str) and (numbers := re.fullmatch(r"\d+(,\d+)*,?", given.replace(" ", ""))):
        words = numbers.group().rstrip(",").split(",")
        given = [int(word) for word in words] if "," in given else int(given)
    if given in ("auto", "-1", ALL, [ALL]):
        return ALL
    if isinstance(given, int) and not isinstance(given, bool) and given >= 1:
        return given
    numbered = isinstance(given, list) and given and all(type(each) is int and each >= 0 for each in given)
    if numbered and len(set(given)) == len(given):
        return list(given)
    raise ConfigError(
        "trainer.devices must be a number of processes of at least 1, numbers of GPUs such as 0,1, or auto, got "
        f"{given!r}"
    )


def command_line(name: str, args: Namespace, overrides: Sequence[str]) -> list[str]:
    """Return the words from which a command's arguments were parsed.

    Args:
        name: The command.
        args: Its arguments.
        overrides: Its overrides.

    Returns:
        The words without the program's name.
    """
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
    """Run `lit-od` in several processes of this machine.

    Args:
        count: Number of processes.
        words: Words of the command line.

    Returns:
        The exit status of the first process that fails, else 0.
    """
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
    # -P: else Python would import what lies in the working folder first
    command = [sys.executable, "-P", "-m", "lit_od.cli", *words]
    running: list[subprocess.Popen[bytes]] = []

    def stop(number: int, frame: object) -> None:
        for process in running:
            process.send_signal(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        for rank in range(count):
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            running.append(subprocess.Popen(command, env=shared | ranks, stdin=subprocess.PIPE))
        return _watch(running)
    except KeyboardInterrupt:  # a terminal interrupts all of them, and one reports it
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
    """Wait for all processes; end them after the first failure.

    Returns:
        The status of the first failure, else 0.
    """
    while True:
        codes = [process.poll() for process in running]
        failed = next((code for code in codes if code), 0)
        if failed or None not in codes:
            break
        time.sleep(_POLL)
    if failed == -signal.SIGKILL:
        # it cannot report that itself
        print(f"lit-od: process {codes.index(failed)} of {len(codes)} was killed", file=sys.stderr)
    _end(running)
    return 128 - failed if failed < 0 else failed


def _end(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until all have ended: by themselves, else by SIGTERM, else by SIGKILL."""
    for force in (subprocess.Popen.terminate, subprocess.Popen.kill):
        deadline = time.monotonic() + GRACE
        while any(process.poll() is None for process in running):
            if time.monotonic() > deadline:
                for process in running:
                    force(process)
                break
            time.sleep(_POLL)


def _end_with_starter() -> None:
    """End this process at once when its starter ends, even if that was killed.

    Otherwise it would go on while the job, started again, writes into the same run.
    """
    held = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def watch() -> None:
        os.read(held, 1)  # nothing is ever written: it returns once the other end is closed
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

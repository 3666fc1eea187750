"""Runs jobs in several processes: `python -m tests.support.ranks`, a job as a line of JSON on standard input.

The processes are forks of this one, which has imported what they need, in the environment that torchrun gives.
Each answer is the list of their exit statuses; -9 where one was killed.
"""

import importlib
import json
import os
import runpy
import socket
import sys
from pathlib import Path
from typing import Any

import torch

import lit_od.training  # noqa: F401  # imported once, for all forks
from lit_od import cli


def main() -> None:
    """Take jobs.

    Keys of a job: world, the number of processes; words, of the command line, and perhaps script, a file to give
    them to; or call, a function as module:name, with its arguments; folder, for what each process prints;
    environment, further variables; slurm, whether the processes are told who they are as srun tells its tasks.
    """
    torch.set_num_threads(1)
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    for line in sys.stdin:
        job = json.loads(line)
        children = _fork_all(job)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), file=channel)


def _fork_all(job: dict[str, Any]) -> list[int]:
    port = _free_port()
    return [_fork(job, rank, port) for rank in range(job["world"])]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _fork(job: dict[str, Any], rank: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        folder, world = Path(job["folder"]), job["world"]
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / f"{rank}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        if world > 1 and job.get("slurm"):
            # SLURM_JOB_ID makes MASTER_PORT; a batch script has SLURM_NTASKS too
            os.environ |= {"SLURM_JOB_ID": str(port), "SLURM_STEP_NUM_TASKS": str(world), "SLURM_NTASKS": str(world)}
            os.environ |= {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0"}
            os.environ |= {"SLURM_STEP_TASKS_PER_NODE": str(world), "SLURM_STEP_NODELIST": "127.0.0.1"}
        elif world > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
            os.environ |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_PORT": str(port)}
        os.environ |= job.get("environment", {})
        if "script" in job:
            sys.argv = [job["script"], *job["words"]]
            runpy.run_path(job["script"], run_name="__main__")
        elif "words" in job:
            status = cli.main(job["words"])
        else:
            module, _, name = job["call"].partition(":")
            status = getattr(importlib.import_module(module), name)(**job["arguments"]) or 0
        sys.stdout.flush()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 71
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
    return 0


if __name__ == "__main__":
    main()

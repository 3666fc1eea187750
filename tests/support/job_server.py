"""Processes that take jobs from the tests, a job as a line of JSON, and have imported what the jobs need."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]


class JobServer:
    """A module of tests.support that runs as a program; as a context it ends with the block."""

    def __init__(self, module: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},  # a fork has none of its parent's threads
            cwd=ROOT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None
        with self.process:
            self.process.stdin.close()
            assert self.process.wait(60) == 0

    def ask(self, job: dict[str, Any]) -> Any:
        """Hand over a job and wait for its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(job), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


class Ranks(JobServer):
    """Runs jobs in several processes; see tests.support.ranks."""

    def __init__(self) -> None:
        super().__init__("tests.support.ranks", TORCH_CPP_LOG_LEVEL="ERROR")

    def __call__(
        self,
        world: int,
        folder: Path,
        *words: object,
        call: str | None = None,
        script: str | None = None,
        environment: dict[str, str] | None = None,
        slurm: bool = False,
        **arguments: Any,
    ) -> list[int]:
        """Run a job and return the exit status of each process.

        Args:
            world: The number of processes.
            folder: Receives what they print, see `said`.
            words: A command line of lit-od.
            call: A function to call instead, module:name, with the arguments.
            script: A Python file to run instead; its words are among the arguments.
            environment: Further variables of theirs.
            slurm: Start them as srun starts its tasks; else as torchrun does.
            arguments: Of the function or the file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        job = {"world": world, "folder": str(folder), "environment": environment or {}, "slurm": slurm}
        if call is not None:
            job |= {"call": call, "arguments": arguments}
        elif script is not None:
            job |= {"script": script, **arguments}
        else:
            job |= {"words": [str(word) for word in words]}
        statuses: list[int] = self.ask(job)
        return statuses


def said(folder: Path) -> tuple[str, str]:
    """Return what the processes of a job have printed: on standard output, and on standard error.

    Without what is imported because it is trusted.
    """
    out, err = ("".join(sorted(file.read_text() for file in folder.glob(f"*.{name}"))) for name in ("out", "err"))
    return out, without_imports(err)


def without_imports(text: str) -> str:
    """Return lines on standard error without those on what is imported because it is trusted."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.endswith("which --trust allows\n"))

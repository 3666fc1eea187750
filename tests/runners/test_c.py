"""The runner in C: raw pixels, many threads, no leak, and its header alone."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.runtimes import RUNNERS, require_program, run_runner


@pytest.fixture
def program(built: Path) -> list[str]:
    return [str(built / "lit-od-score")]


def test_raw_pixels(program: list[str], mapped: Path, tmp_path: Path) -> None:
    pixels = np.load(mapped / "golden" / "3.npy")
    (tmp_path / "raw.raw").write_bytes(pixels.tobytes())
    (tmp_path / "short.raw").write_bytes(pixels.tobytes()[:-1])
    done = run_runner(program, mapped / "model.onnx", mapped / "golden" / "3.png", tmp_path / "raw.raw")
    assert (done.returncode, done.stderr) == (0, "")
    decoded, raw = done.stdout.splitlines()[1:]
    assert decoded.partition(",")[2] == raw.partition(",")[2]
    done = run_runner(program, mapped / "model.onnx", tmp_path / "short.raw")
    assert (done.returncode, "3071 bytes" in done.stderr) == (2, True)


def compiled_with(built: Path, source: str, out: Path) -> list[str]:
    """Compile a program against the library."""
    library = next((built / "onnxruntime" / "lib").glob("*.so.1"))
    words = ["cc", "-std=gnu11", "-Wall", "-Werror", f"-I{RUNNERS / 'c'}", Path(__file__).parent / source]
    more = [built / "liblit_od.a", library, "-lm", "-pthread", f"-Wl,-rpath,{library.parent}", "-o", out]
    subprocess.run([*map(str, [*words, *more])], check=True)
    return [str(out)]


def test_threads_share_a_model(built: Path, mapped: Path, tmp_path: Path) -> None:
    program = compiled_with(built, "threads.c", tmp_path / "threads")
    (tmp_path / "raw.raw").write_bytes(np.load(mapped / "golden" / "0.npy").tobytes())
    done = run_runner(program, mapped / "model.onnx", tmp_path / "raw.raw")
    assert (done.returncode, done.stdout) == (0, "400 scores, all alike\n"), done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallinfo2 is of glibc")
def test_memory_does_not_grow(built: Path, mapped: Path, tmp_path: Path) -> None:
    program = compiled_with(built, "reopened.c", tmp_path / "reopened")
    done = run_runner(program, mapped / "model.onnx", mapped / "golden" / "0.png")
    assert done.returncode == 0, done.stderr
    early, late = map(int, done.stdout.split())
    assert late - early < 20_000  # four times a session, 80 times an image of 8 KB


@pytest.mark.slow
def test_nothing_leaks(program: list[str], mapped: Path, tmp_path: Path) -> None:
    """ONNX Runtime itself loses a few bytes a process: they are its own, and as many for three images as for one."""
    valgrind = require_program("valgrind")
    golden = mapped / "golden"
    Path(tmp_path / "bad.png").write_bytes((golden / "1.png").read_bytes()[:-200])
    lost = []
    for images in (["0.png"], ["0.png", "1.png", "2.png"]):
        more = ["--maps", tmp_path, mapped / "model.onnx", tmp_path / "bad.png", *(golden / name for name in images)]
        done = run_runner([valgrind, "--leak-check=full", "--show-leak-kinds=definite", *program], *more)
        assert len(done.stdout.splitlines()) == 1 + len(images)
        records = done.stderr.split(" definitely lost in loss record ")[1:]
        assert all("libonnxruntime" in record.splitlines()[2] for record in records), done.stderr
        summary = re.findall(r"(definitely|indirectly|possibly) lost: ([\d,]+) bytes", done.stderr)
        lost.append({kind: int(count.replace(",", "")) for kind, count in summary})
    assert lost[0] == lost[1]
    assert sum(lost[0].values()) < 1000

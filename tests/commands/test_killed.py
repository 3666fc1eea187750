"""A command that is killed while it writes leaves the old bundle or the new one, whole, and nothing that stays.

SIGKILL cannot be caught, so what is on disk at that moment is all that there is. First every single step of
the writing is tried, then moments drawn at random around it, in all four commands that write a bundle.
"""

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lit_od.bundle.folder import CARD, MANIFEST, Bundle
from tests.support.images import ASSETS
from tests.support.job_server import JobServer
from tests.support.sealing import signed

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks and SIGKILL are POSIX'")

STEPS = 56
"""About as many as the writing has."""
KILLED = -signal.SIGKILL
TRAINING = ["--data.limit=120", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
ONE = ["--threads", "1"]
IMAGES = f"{ASSETS}/digits.npz:test_images:0,1"


class Killer(JobServer):
    """A process that runs commands and kills them; see `tests.support.killer`."""

    def __init__(self) -> None:
        super().__init__("tests.support.killer")

    def run(self, words: list[str], *, exchange: bool = True, **job: Any) -> int:
        """Run a command and return its exit status, -9 where it was killed."""
        status: int = self.ask({"words": words, "exchange": exchange, **job})
        return status


@pytest.fixture(scope="module")
def killer(made_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killer]:
    words = ["refit", str(made_bundle.path), IMAGES, *ONE, "--out", str(tmp_path_factory.mktemp("warm") / "bundle")]
    with Killer() as light:
        assert light.run(words, here=True) == 0
        yield light


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Killer, str]]:
    """A killer that has trained, and its checkpoint."""
    folder = tmp_path_factory.mktemp("warm")
    words = ["fit", "demo", *TRAINING, *ONE, "--out", str(folder / "bundle"), "--run", str(folder / "run")]
    with Killer() as heavy:
        assert heavy.run(words, here=True) == 0
        yield heavy, str(folder / "run" / "best.ckpt")


@pytest.fixture
def target(made_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle in a folder of its own."""
    return Path(shutil.copytree(made_bundle.path, tmp_path / "here" / "bundle"))


def essence(path: Path) -> tuple[Any, ...]:
    """A bundle that is whole, as values to compare; times at which it was made and changed are left out."""
    bundle = Bundle.read(path, whole=True)
    provenance = msgspec.structs.replace(bundle.manifest.provenance, created="")
    manifest = msgspec.structs.replace(bundle.manifest, provenance=provenance, files={}, sha256="")
    return manifest, {name: data for name, data in bundle.files.items() if name != CARD}


def forget(target: Path) -> None:
    """Take the history away, and touch nothing beside the bundle: it would grow by a file a command."""
    shutil.rmtree(target / "history")
    tree = json.loads((target / MANIFEST).read_bytes())
    tree["files"] = {name: entry for name, entry in tree["files"].items() if not name.startswith("history/")}
    (target / MANIFEST).write_bytes(signed(tree))


def beside(target: Path) -> list[str]:
    return sorted(entry.name for entry in target.parent.iterdir())


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "fallback"])
def test_killed_before_every_single_step(killer: Killer, target: Path, exchange: bool) -> None:
    """What one kill leaves is there when the next command begins, as it would be."""
    old, outcomes, step, status = essence(target), Counter[str](), 0, KILLED
    while status == KILLED:
        step += 1
        words = ["threshold", str(target), "--value", str(step)]
        status = killer.run(words, exchange=exchange, step=step)
        assert status in (0, KILLED)
        now = essence(target)
        came = now[0].calibration.threshold
        assert now == old or came == step
        outcomes["old" if now == old else "new"] += 1
        assert now[1] == old[1]
        if now != old:
            forget(target)
        old = now
    assert outcomes["old"] > 15
    assert outcomes["new"] > 2
    assert beside(target) == ["bundle"]
    print(f"\n{step - 1} steps, a kill before each: {dict(outcomes)}")


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "fallback"])
def test_killed_where_there_was_nothing(killer: Killer, target: Path, tmp_path: Path, exchange: bool) -> None:
    free, status, step, seen = tmp_path / "free" / "bundle", KILLED, 0, set()
    while status == KILLED:
        step += 4
        words = ["refit", str(target), IMAGES, "--out", str(free), *ONE]
        status = killer.run(words, exchange=exchange, step=step)
        seen.add(free.exists())
        if free.exists():
            Bundle.read(free)
            shutil.rmtree(free)
    assert seen == {True, False}
    assert set(beside(free)) <= {"bundle"}


def shares(few: int) -> pytest.MarkDecorator:
    """So many kills, or ten times as many in the long run."""
    return pytest.mark.parametrize("kills", [few, pytest.param(10 * few, marks=pytest.mark.slow)])


def random_kills(
    killer: Killer, words: list[str], target: Path, new: Path, *, kills: int, seed: int, fresh: bool = False
) -> Counter[str]:
    """Run a command over an old bundle and kill it, again and again.

    Args:
        killer: What runs it.
        words: The command without its --out.
        target: The bundle that it replaces.
        new: The bundle that it makes, made without a kill.
        kills: How often; of five two before a step of the writing, two within 20 ms of its beginning, and
            one at any moment of the run.
        seed: Of the moments.
        fresh: Whether each command is a new interpreter, and no fork.

    Returns:
        How often the old and the new bundle were there afterwards, and how often the command had ended before.
    """
    draw = random.Random(seed)
    pristine, outcomes = shutil.copytree(target, target.parent.parent / "pristine"), Counter[str]()
    old, wanted = essence(target), essence(new)
    started = time.perf_counter()
    assert old != wanted
    assert killer.run(words, fresh=fresh) == 0
    span = time.perf_counter() - started
    for turn in range(kills):
        shutil.rmtree(target)
        shutil.copytree(pristine, target)
        exchange = fresh or bool(turn % 2)
        if turn % 5 == 4:
            moment: dict[str, Any] = {"delay": draw.uniform(0, span)}
        elif turn % 5 < 2 and not fresh:
            moment = {"step": draw.randint(1, STEPS)}
        else:
            moment = {"beside": str(target.parent), "delay": draw.uniform(0, 0.02)}
        status = killer.run(words, exchange=exchange, fresh=fresh, **moment)
        assert status in (0, KILLED)
        now = essence(target)
        assert now in (old, wanted)
        outcomes["old" if now == old else "new"] += 1
        outcomes["ended"] += status == 0
    assert killer.run(words, fresh=fresh) == 0
    assert essence(target) == wanted
    assert beside(target) == ["bundle"]
    print(f"\n{words[0]}: {kills} kills in {time.perf_counter() - started:.1f} s, {dict(outcomes)}")
    return outcomes


@shares(60)
def test_threshold(killer: Killer, target: Path, tmp_path: Path, kills: int) -> None:
    new = shutil.copytree(target, tmp_path / "new" / "bundle")
    assert killer.run(["threshold", str(new), "--value", "7"]) == 0
    outcomes = random_kills(killer, ["threshold", str(target), "--value", "7"], target, new, kills=kills, seed=1)
    assert outcomes["old"] > 0
    assert outcomes["new"] > 0


@shares(40)
def test_refit(killer: Killer, made_bundle: Bundle, target: Path, tmp_path: Path, kills: int) -> None:
    words = ["refit", str(made_bundle.path), IMAGES, *ONE, "--out"]
    assert killer.run([*words, str(tmp_path / "new" / "bundle")]) == 0
    random_kills(killer, [*words, str(target)], target, tmp_path / "new" / "bundle", kills=kills, seed=2)


@shares(20)
def test_accept(killer: Killer, made_bundle: Bundle, target: Path, tmp_path: Path, kills: int) -> None:
    """With the history that it writes: old or new, whole, and both can be read to the last byte."""
    words = ["refit", str(made_bundle.path), IMAGES, *ONE, "--detector", "knn", "--out"]
    assert killer.run([*words, str(target)]) == 0
    new = Path(shutil.copytree(target, tmp_path / "new" / "bundle"))
    odd = f"{ASSETS}/garments.npz:images:1"
    assert killer.run(["accept", str(new), odd, *ONE]) == 0
    outcomes = random_kills(killer, ["accept", str(target), odd, *ONE], target, new, kills=kills, seed=5)
    assert outcomes["old"] > 0
    assert outcomes["new"] > 0
    assert Bundle.read(target, whole=True).changes()[0].command == "accept"


@pytest.mark.torch
@shares(3)
@pytest.mark.parametrize("name", ["export", "fit"])
def test_what_trains(trainer: tuple[Killer, str], target: Path, tmp_path: Path, name: str, kills: int) -> None:
    killer, checkpoint = trainer
    words = ["export", checkpoint, *ONE] if name == "export" else ["fit", "demo", *TRAINING, *ONE]
    new = tmp_path / "new" / "bundle"
    assert killer.run([*words, "--out", str(new)]) == 0
    random_kills(killer, [*words, "--out", str(target)], target, new, kills=kills, seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["threshold", "refit", "export", "fit"])
def test_as_a_user_starts_them(
    trainer: tuple[Killer, str], made_bundle: Bundle, target: Path, tmp_path: Path, name: str
) -> None:
    """Each in a new interpreter."""
    killer, checkpoint = trainer
    new = shutil.copytree(target, tmp_path / "new" / "bundle")
    commands = {
        "threshold": lambda out: ["threshold", out, "--value", "7"],
        "refit": lambda out: ["refit", str(made_bundle.path), IMAGES, *ONE, "--out", out],
        "export": lambda out: ["export", checkpoint, *ONE, "--out", out],
        "fit": lambda out: ["fit", "demo", *TRAINING, *ONE, "--out", out],
    }
    assert killer.run(commands[name](str(new))) == 0
    random_kills(killer, commands[name](str(target)), target, new, kills=5, seed=4, fresh=True)

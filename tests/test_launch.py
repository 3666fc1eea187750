"""Where torchrun and SLURM put a process, and how many a command starts itself."""

from argparse import Namespace

import pytest

from lit_od.errors import ConfigError
from lit_od.launch import Place, place, wanted, words_of

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
SLURM = {
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}


def test_where_a_process_stands() -> None:
    assert place({}) is None
    assert place(TORCHRUN) == Place(3, 4, 1, 2)
    assert place(TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}) is None
    assert place(SLURM) == Place(2, 4, 0, 2, slurm=True)
    assert place(SLURM | TORCHRUN) == Place(3, 4, 1, 2)  # torchrun inside a SLURM job
    assert place({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}) is None  # a batch script's own
    with pytest.raises(ConfigError, match=r"as many processes, SLURM has 2,1: set --ntasks-per-node"):
        place(SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2,1"})


@pytest.mark.parametrize(
    ("trainer", "count"),
    [({}, 1), ({"devices": 3}, 3), ({"devices": "2"}, 2), ({"devices": [0, 2]}, 2), ({"devices": 1}, 1)],
)
def test_a_process_a_device(trainer: dict[str, object], count: int) -> None:
    assert wanted(trainer) == count
    assert wanted({"devices": "auto", "accelerator": "cpu"}) == 1
    with pytest.raises(ConfigError, match=r"trainer\.num_nodes 2: start a process a device on every machine"):
        wanted(trainer | {"num_nodes": 2})


def test_a_command_line_from_its_arguments() -> None:
    args = Namespace(recipe="demo", seed=3, out="a b", resume=None)
    words = words_of("train", args, ["--trainer.devices", "2"])
    assert words == ["train", "demo", "--seed=3", "--out=a b", "--trainer.devices", "2"]

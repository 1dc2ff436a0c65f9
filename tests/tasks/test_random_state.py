"""The random numbers of each process go on where they were."""

import os
import subprocess
import sys

import pytest
import torch

from lightning_prefix.tasks.random_state import is_random_state, random_state, set_random_state

CPU = torch.device("cpu")

TWO_PROCESSES = """
import sys
import torch
from torch import distributed
from lightning_prefix.tasks.random_state import random_state, set_random_state

rank, file = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
torch.manual_seed(rank)
state = random_state(torch.device("cpu"))
numbers = torch.rand(3)
set_random_state(state, torch.device("cpu"))
assert torch.equal(torch.rand(3), numbers), rank
assert not torch.equal(state[0]["cpu"], state[1]["cpu"])
"""


def test_one_process():
    state = random_state(CPU)
    numbers = torch.rand(3)
    set_random_state(state, CPU)
    assert torch.equal(torch.rand(3), numbers)


def test_each_of_two_processes_goes_on_with_its_own(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TWO_PROCESSES]
    both = [subprocess.Popen([*command, rank, str(tmp_path / "meet")], env=environment) for rank in "01"]
    assert [process.wait(timeout=120) for process in both] == [0, 0]


def test_another_number_of_processes_goes_on_with_the_first():
    states = [random_state(CPU)[0] for _ in range(2) if torch.rand(1) is not None]
    set_random_state(states, CPU)
    assert torch.equal(torch.get_rng_state(), states[0]["cpu"])
    assert not torch.equal(states[0]["cpu"], states[1]["cpu"])


@pytest.mark.parametrize("state", [None, [], {}, [None], [{}], [{"cpu": None}], [{"cpu": torch.zeros(2)}]])
def test_what_is_no_state(state):
    assert is_random_state(random_state(CPU))
    assert not is_random_state(state)
    assert not is_random_state([{**random_state(CPU)[0], "tpu": torch.zeros(2)}])

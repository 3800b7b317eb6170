"""Two processes: sums are right, and the group that was opened is closed before the interpreter ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

SCRIPT = """
import atexit, os, sys
import torch

def at_the_end():  # registered first, so it runs after the library's own
    sys.stdout.write("open" if torch.distributed.is_initialized() else "closed")
    sys.stdout.flush()

atexit.register(at_the_end)
if sys.argv[1] == "caller":
    torch.distributed.init_process_group("gloo")
from efface.engine.distribution import add_up, add_up_number, close, world

rank, processes = world()
world()
p = torch.nn.Parameter(torch.zeros(3))
p.grad = torch.full((3,), float(rank + 1)) if rank else None
add_up([p])
assert p.grad.tolist() == [2.0, 2.0, 2.0], p.grad
assert add_up_number(rank + 0.5, torch.device("cpu")) == 2.0
sys.stdout.write(f"{rank} of {processes}, ")
if sys.argv[1] == "caller":
    atexit.register(close)
    atexit.register(at_the_end)  # runs before it: the library has left the caller's group open
"""


@pytest.mark.parametrize(("opened_by", "told"), [("library", "closed"), ("caller", "openclosed")])
def test_group_is_closed_at_exit(opened_by: str, told: str) -> None:
    """Gradients 0 (missing) and 2, figures 0.5 and 1.5: both sum to 2. A group that is still open when the interpreter
    ends aborts the process now and then; a group of the caller's stays the caller's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, opened_by],
            env=env | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    ended = [(*process.communicate(timeout=120), process.returncode) for process in started]
    for rank, (out, err, code) in enumerate(ended):
        assert (out, code) == (f"{rank} of 2, {told}", 0), err

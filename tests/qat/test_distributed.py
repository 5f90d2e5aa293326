"""Two real processes train one model together."""

import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = Path(__file__).parent / "scripts" / "ddp_train.py"


def test_ranks_end_with_the_same_parameters_and_ranges(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", SCRIPT, tmp_path]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    one, other = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert one["losses"] != other["losses"]  # on data of their own
    for name, value in one["state"].items():
        if "running" not in name:  # statistics of a norm are each rank's own until the next step, as ever
            assert torch.equal(value, other["state"][name]), name
    inputs = one["state"]["activation_post_process_0.activation_post_process.max_val"]
    assert float(inputs) > 5  # the range holds what only rank 1 saw
    weights = [name for name, value in one["converted"].items() if value.dtype == torch.int8]
    assert weights
    assert all(
        torch.equal(one["converted"][name], other["converted"][name]) for name in weights if not name.startswith("0")
    )

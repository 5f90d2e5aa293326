"""Two real processes calibrate one model together: they know what one process would, and none outlives the other."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from calibration_cases import OBSERVERS, batches_of, prepared_with

from quantizer_sdk import calibrate
from quantizer_sdk.observers import MinMaxObserver

SCRIPTS = Path(__file__).parent / "scripts"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SCRIPTS.parents[1])}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank knows after each case."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        SCRIPTS / "ranks.py",
    ]
    done = subprocess.run(
        [str(word) for word in (*command, folder)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


def alone(kind, batches):
    prepared = prepared_with(kind)
    calibrate(prepared, batches)
    return prepared.state_dict()


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(found[name], value), name


@pytest.mark.parametrize("name", ["min-max", "percentile", "histogram", "mse"])
def test_two_ranks_know_what_one_process_knows_to_the_bit(ranks, name):
    expected = alone(OBSERVERS[name], batches_of(7))
    for rank in ranks:
        count, state = rank[name]
        assert count == 7
        assert_same(state, expected)


def test_moving_averages_are_the_mean_of_the_ranks(ranks):
    parts = [alone(OBSERVERS["moving average"], batches_of(7)[rank::2]) for rank in (0, 1)]
    for rank in ranks:
        _count, state = rank["moving average"]
        for name, value in state.items():
            assert torch.equal(value, (parts[0][name] + parts[1][name]) / 2), name


def test_recordings_are_strung_together(ranks):
    batches = batches_of(7)
    for rank in ranks:
        _count, state = rank["recording"]
        recorded = next(value for key, value in state.items() if key.endswith("_extra_state"))  # those of the input
        expected = [batches[index] for index in (0, 2, 4, 6, 1, 3, 5)]
        assert all(torch.equal(found, batch) for found, batch in zip(recorded, expected, strict=True))


@pytest.mark.parametrize(
    ("case", "count"),
    [
        ("iterator", 7),
        ("unsharded", 7),
        ("one batch", 1),
        ("after a failure", 7),
        ("shuffled loader", 7),
        ("shuffled loader without batches", 7),
    ],
)
def test_every_batch_is_seen_by_one_rank(ranks, case, count):
    expected = alone(MinMaxObserver, batches_of(count))
    for rank in ranks:
        found, state = rank[case]
        assert found == count
        assert_same(state, expected)


def test_a_loader_that_shards_is_left_to_it(ranks):
    expected = alone(MinMaxObserver, batches_of(6))
    for rank in ranks:
        count, state = rank["sharded loader"]
        assert count == 6
        assert_same(state, expected)


def test_no_batch_on_any_rank_is_an_error_on_all(ranks):
    assert all(rank["none"].startswith("CalibrationError: the calibration data holds no batch") for rank in ranks)


def test_a_rank_that_fails_ends_all_with_its_error(ranks):
    assert ranks[0]["failing"] == "CalibrationError: rank 1 failed: ValueError: the disk is gone"
    assert ranks[1]["failing"] == "ValueError: the disk is gone"


def test_observers_that_cannot_be_merged_are_named_before_any_data(ranks):
    for rank in ranks:
        assert rank["unmerged"].startswith("UnsupportedError: Unmerged on [")
        assert "cannot be merged with those of 2 ranks" in rank["unmerged"]


def test_an_interrupted_calibration_goes_on(ranks):
    expected = alone(MinMaxObserver, batches_of(7))
    for rank in ranks:
        assert "stop here" in rank["interrupted"]
        count, state = rank["resumed"]
        assert count == 7
        assert_same(state, expected)


def test_a_rank_that_is_killed_ends_the_other_within_30_seconds_and_is_named():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**ENVIRONMENT, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPTS / "killed.py")],
            env={**environment, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        words, _ = processes[0].communicate(timeout=120)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    seconds, _, message = words.partition(" ")
    assert "rank 1 does not answer any more" in message
    assert float(seconds) < 30

"""Calibrates on two ranks, of which rank 1 is killed in the middle; rank 0 says what it hears, and when."""

import os
import signal
import sys
import time

import torch
import torch.distributed as dist
from calibration_cases import batches_of, prepared_with

from quantizer_sdk import CalibrationError, calibrate
from quantizer_sdk.observers import MinMaxObserver


def main():
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()

    def slow():
        for index, batch in enumerate(batches_of(600)):
            if rank == 1 and index == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.1)
            yield batch

    start = time.monotonic()
    try:
        calibrate(prepared_with(MinMaxObserver), slow(), shard=False)
    except CalibrationError as e:
        sys.stdout.write(f"{time.monotonic() - start:.1f} {e}\n")
        sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

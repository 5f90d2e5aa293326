"""Calibrates EfficientNet-Lite0 on the ranks that there are, one thread each; prints the seconds. Run by torchrun."""

from __future__ import annotations

import sys
import time

import torch
import torch.distributed as dist

from models.x86_zoo import ENTRIES
from quantizer_sdk import calibrate, prepare_pt2e
from quantizer_sdk.backends.x86 import X86Quantizer, get_default_x86_quantization_config


def _main(steps: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    entry = ENTRIES["efficientnet_lite0"]
    model, images = entry.build(entry.size), entry.examples(entry.size, 4)
    step = torch.cat([image for (image,) in images])
    exported = torch.export.export(model, (step,)).module()
    prepared = prepare_pt2e(exported, X86Quantizer("onednn").set_global(get_default_x86_quantization_config()))
    dist.barrier()
    start = time.perf_counter()
    calibrate(prepared, [step] * steps)
    if dist.get_rank() == 0:
        sys.stdout.write(f"{time.perf_counter() - start}\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    _main(int(sys.argv[1]))

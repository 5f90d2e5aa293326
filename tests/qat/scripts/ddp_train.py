"""Trains a prepared model on one of several ranks, and saves what it has become. Run by torchrun."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from quantizer_sdk import convert_pt2e, prepare_qat_pt2e
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config


def main(folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
    )
    x = torch.randn(8, 3, 8, 8)
    exported = torch.export.export(net.train(), (x,)).module()
    config = get_symmetric_quantization_config(is_per_channel=True, is_qat=True)
    prepared = prepare_qat_pt2e(exported, XNNPACKQuantizer().set_global(config))
    model = DistributedDataParallel(prepared)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for step in range(6):
        torch.manual_seed(100 * step + rank)  # each rank has data of its own, and that of rank 1 is larger
        optimizer.zero_grad()
        loss = (model(torch.randn(8, 3, 8, 8) * (1 + rank)) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    torch.save(
        {
            "state": prepared.state_dict(),
            "losses": losses,
            "converted": convert_pt2e(prepared.eval()).state_dict(),
            "alone": float(x.abs().max()),
        },
        Path(folder) / f"rank{rank}.pt",
    )
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])

"""Nets, data and quantizers for tests of mixed precision."""

import torch
from quantizers import ADD, CONFIG, CONV, INT8, LINEAR, RELU, WEIGHT8
from torch import nn

from quantizer_sdk import QuantizationConfig, Row, TableQuantizer


def eight_bits(match):
    dtype = match.config.input_activation.dtype
    return None if dtype is torch.int8 else f"activations of {dtype}; the kernel takes int8"


class Table(TableQuantizer):
    """A made-up backend that takes any activations that are 8 bits wide."""

    rows = (
        Row("conv_relu", (CONV, RELU), checks=(eight_bits,)),
        Row("conv", (CONV,), checks=(eight_bits,)),
        Row("linear", (LINEAR,), checks=(eight_bits,)),
        Row("add", (ADD,), checks=(eight_bits,)),
    )

    def default_config(self):
        return CONFIG


class Wide(Table):
    """One whose linear layers take 16 bits too."""

    rows = (Row("linear", (LINEAR,)), *Table.rows)


PER_TENSOR = QuantizationConfig(INT8, INT8, type(WEIGHT8)(torch.int8, None, -127, 127, torch.per_tensor_symmetric))


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.one = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU()
        self.two = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        return x + self.two(self.relu(self.one(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.blocks = nn.Sequential(Block(4), Block(4))
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def exported(net, *example):
    return torch.export.export(net.eval(), example).module()


def net_and_data(batches=3):
    torch.manual_seed(0)
    data = [torch.randn(2, 3, 8, 8) for _ in range(batches)]
    return Net(), data

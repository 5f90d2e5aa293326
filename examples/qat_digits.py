"""Train a small network on scikit-learn's digits, quantize its weights to 4 and 3 bits, and win the loss back by QAT.

pip install -e ".[demo]" scikit-learn
python examples/qat_digits.py --plot qat_digits.png
"""

from __future__ import annotations

import copy
import statistics
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.fx import GraphModule
from torch.nn import functional
from tqdm import tqdm

from quantizer_sdk import calibrate, convert_pt2e, prepare_pt2e, prepare_qat_pt2e
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config, lower
from quantizer_sdk.fake_quantize import QATSchedule

BATCH = 64
FLOAT_EPOCHS, QAT_EPOCHS = 30, 40
BITS = (4, 3)
SHAPES = ({0: torch.export.Dim("batch", min=2, max=1024)},)


class Net(nn.Module):
    """A small MobileNet with dropout: [N, 1, 8, 8] to 10 classes."""

    def __init__(self) -> None:
        super().__init__()

        def layer(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
            conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.05), nn.ReLU())

        self.features = nn.Sequential(
            layer(1, 16),
            *(layer(16, 16, groups=16), layer(16, 32, 1)),
            *(layer(32, 32, stride=2, groups=32), layer(32, 48, 1)),
            *(layer(48, 48, groups=48), layer(48, 48, 1)),
            *(layer(48, 48, stride=2, groups=48), layer(48, 64, 1)),
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.head(self.features(x))


class Digits:
    """The data set, split in two."""

    def __init__(self, seed: int) -> None:
        images, labels = load_digits(return_X_y=True)
        parts = train_test_split(images, labels, test_size=0.3, random_state=seed, stratify=labels)
        train, test = (torch.tensor(part, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16 for part in parts[:2])
        self.train, self.test = train, test
        self.train_labels, self.test_labels = (torch.tensor(part) for part in parts[2:])

    def accuracy(self, logits: torch.Tensor) -> float:
        """Return the share of right classes on the test set, in percent."""
        return 100 * float((logits.argmax(1) == self.test_labels).double().mean())


def train(model: nn.Module, data: Digits, epochs: int, rate: float, schedule: QATSchedule | None = None) -> list[float]:
    """Train a model and return the mean loss of every epoch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    steps = epochs * (len(data.train) // BATCH)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for _ in range(epochs):
        order, seen = torch.randperm(len(data.train)), []
        for batch in order[: len(order) // BATCH * BATCH].split(BATCH):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(data.train[batch]), data.train_labels[batch])
            loss.backward()
            optimizer.step()
            falling.step()
            if schedule is not None:
                schedule.step()
            seen.append(float(loss.detach()))
        losses.append(statistics.fmean(seen))
    return losses


def quantizer(bits: int, *, is_qat: bool) -> XNNPACKQuantizer:
    """Return a quantizer with 8-bit activations and one scale a weight tensor."""
    end = 2 ** (bits - 1) - 1
    config = get_symmetric_quantization_config(is_qat=is_qat, weight_qmin=-end, weight_qmax=end)
    return XNNPACKQuantizer().set_global(config)


def export(model: nn.Module, data: Digits) -> GraphModule:
    """Export with a dynamic batch."""
    return torch.export.export(model, (data.train[:BATCH],), dynamic_shapes=SHAPES).module()


@torch.no_grad()
def after_training(model: nn.Module, data: Digits, bits: int) -> float:
    """Quantize a trained float model and return its accuracy."""
    prepared = prepare_pt2e(export(model.eval(), data), quantizer(bits, is_qat=False))
    calibrate(prepared, data.train[:512].split(BATCH))
    return data.accuracy(convert_pt2e(prepared)(data.test))


def run(seed: int) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Train, quantize and train with quantization from one seed."""
    torch.manual_seed(seed)
    data, model = Digits(seed), Net()
    losses = {"float": train(model, data, FLOAT_EPOCHS, 1e-2)}
    accuracy = {}
    with torch.no_grad():
        accuracy["float"] = data.accuracy(model.eval()(data.test))
    accuracy["8 bits, after training"] = after_training(model, data, 8)
    weights = copy.deepcopy(model.state_dict())
    for bits in BITS:
        model.load_state_dict(weights)
        accuracy[f"{bits} bits, after training"] = after_training(model, data, bits)
        prepared = prepare_qat_pt2e(export(model.train(), data), quantizer(bits, is_qat=True))
        late = QAT_EPOCHS * (len(data.train) // BATCH) * 3 // 4
        schedule = QATSchedule(prepared, freeze_observers_after=late, freeze_batch_norm_after=late)
        losses[f"{bits} bits"] = train(prepared, data, QAT_EPOCHS, 3e-3, schedule)
        converted = convert_pt2e(prepared.eval())
        with torch.no_grad():
            accuracy[f"{bits} bits, in training"] = data.accuracy(converted(data.test))
        program = lower(converted, (data.test[:BATCH],), dynamic_shapes=SHAPES)
        computing = [kernel for kernel in program.kernels() if not kernel.conversion]
        assert all(kernel.integer for kernel in computing), computing
        (logits,) = program.run(data.test)
        accuracy[f"{bits} bits, on XNNPACK's kernels"] = data.accuracy(logits)
    return accuracy, losses


def render(results: list[dict[str, float]]) -> Table:
    """Return the accuracies as a table."""
    table = Table(title="Accuracy on 540 test digits, %")
    for heading in ("weights", *(f"seed {seed}" for seed in range(len(results))), "mean"):
        table.add_column(heading, justify="left" if heading == "weights" else "right")
    for name in results[0]:
        values = [result[name] for result in results]
        table.add_row(name, *(f"{value:.2f}" for value in values), f"{statistics.fmean(values):.2f}")
    return table


def draw(curves: list[dict[str, list[float]]], path: Path) -> None:
    """Plot the losses of every seed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for name, color in zip(curves[0], ("tab:blue", "tab:red", "tab:orange"), strict=False):
        start = 0 if name == "float" else FLOAT_EPOCHS
        for index, losses in enumerate(curve[name] for curve in curves):
            epochs = [start + epoch + 1 for epoch in range(len(losses))]
            axes.semilogy(epochs, losses, color=color, alpha=0.7, label=name if index == 0 else None)
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main(
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds to train from.")] = 3,
    plot: Annotated[Path | None, typer.Option(help="Where to put a picture of the losses.")] = None,
) -> None:
    """Print accuracies before and after quantization, and what training with it wins back."""
    start = time.perf_counter()
    runs = [run(seed) for seed in tqdm(range(seeds), unit="seed")]
    console = Console()
    console.print(render([accuracy for accuracy, _losses in runs]))
    console.print(f"{time.perf_counter() - start:.0f} s")
    if plot is not None:
        draw([losses for _accuracy, losses in runs], plot)


if __name__ == "__main__":
    typer.run(main)

"""The benchmark's figures as a picture."""

from __future__ import annotations

from pathlib import Path

from models.result import Result

__all__ = ["draw"]


def draw(results: list[Result], path: Path) -> None:
    """Draw the speed-up over fp32 and the SQNR of ours and the peer's, a pair of bars for each model."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = [result for result in results if "ours" in result.columns]
    figure, (faster, cleaner) = plt.subplots(1, 2, figsize=(12, 1 + 0.45 * len(shown)), sharey=True)
    for offset, name in ((0.2, "ours"), (-0.2, "peer")):
        places, speeds, ratios = [], [], []
        for index, result in enumerate(shown):
            column, plain = result.columns.get(name), result.columns.get("fp32")
            places.append(len(shown) - 1 - index + offset)
            timed = column is not None and plain is not None and column.latency and plain.latency
            speeds.append(plain.latency / column.latency if timed else 0)  # type: ignore[union-attr,operator]
            ratios.append(column.sqnr or 0 if column is not None else 0)
        faster.barh(places, speeds, height=0.38, label=name)
        cleaner.barh(places, ratios, height=0.38, label=name)
    faster.axvline(1, color="grey", linewidth=0.8)
    faster.set_yticks(range(len(shown)), [result.name for result in reversed(shown)])
    faster.set_xlabel("times as fast as fp32 (none: it fails)")
    cleaner.set_xlabel("SQNR against fp32, dB")
    faster.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)

"""Does the suite's cost grow in proportion to a table's rows? `python benchmarks/conformance_rows.py`.

Tables of 25 to 200 rows, each row a chain of ops of its own: cases, the time to enumerate them, and the time to run the
contract of a sample, per case. Interleaved, medians of several rounds.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence

import torch

from quantizer_sdk import (
    ACT,
    WEIGHT,
    Backend,
    QuantizationConfig,
    QuantizationSpec,
    Row,
    Step,
    TableQuantizer,
)
from quantizer_sdk.conformance.corpus import FORMS, MOVES
from quantizer_sdk.conformance.evaluate import evaluate
from quantizer_sdk.conformance.families import row_scenarios
from quantizer_sdk.conformance.followers import FOLLOWERS

INT8 = QuantizationSpec(torch.int8, None, -128, 127, torch.per_tensor_affine)
CONFIG = QuantizationConfig(INT8, INT8, INT8)


def rows() -> list[Row]:
    """Return rows for each op, each op and activation, and each op and two activations."""
    heads = [target for target in FORMS if not target._schema.is_mutable and target not in MOVES]
    tails = [t for t in FOLLOWERS if not t._schema.is_mutable and len(list(FORMS[t][0].program.calls[0].refs())) == 1]
    chains = [(head,) for head in heads]
    chains += list(itertools.product(heads, tails[:3]))
    chains += list(itertools.product(heads, tails[:2], tails[2:4]))
    return [Row("+".join(map(str, chain)), tuple(step(target) for target in chain)) for chain in reversed(chains)]


def step(target: torch._ops.OpOverload) -> Step:
    """Return a step whose constants are weights."""
    weighted = any(word in str(target) for word in ("conv", "linear", "addmm"))
    return Step(frozenset({target}), (ACT, WEIGHT) if weighted else (ACT, ACT))


def backend_of(table: Sequence[Row]) -> Backend:
    """Return a backend with this table, without a runtime."""

    class Quantizer(TableQuantizer):
        rows = tuple(table)

        def default_config(self) -> QuantizationConfig:
            return CONFIG

    return Backend(name=f"{len(table)} rows", quantizer=Quantizer)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sample", type=int, default=40, help="scenarios whose contract is run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    everything = rows()
    sizes = (25, 50, 100, 200)
    enumerate_s: dict[int, list[float]] = {size: [] for size in sizes}
    case_s: dict[int, list[float]] = {size: [] for size in sizes}
    cases: dict[int, int] = {}
    for _round, size in itertools.product(range(options.rounds), sizes):
        table = everything[:: len(everything) // size][:size]
        start = time.perf_counter()
        scenarios = row_scenarios(table, ("s8",))
        enumerate_s[size].append(time.perf_counter() - start)
        cases[size] = sum(len(scenario.checks) for scenario in scenarios)
        sample = [s for s in scenarios if s.data == "generic"][:: max(1, len(scenarios) // options.sample)]
        start = time.perf_counter()
        done = sum(len(evaluate(s, backend_of(table), {"C1", "C2", "C3", "C4"}, 0)) for s in sample)
        case_s[size].append((time.perf_counter() - start) / done)
    print("rows   cases  cases/row  enumerate, ms  us/case  contract, ms/case")
    for size in sizes:
        taken = statistics.median(enumerate_s[size])
        one = statistics.median(case_s[size])
        count = cases[size]
        line = f"{size:4d}  {count:6d}  {count / size:9.1f}  {taken * 1e3:13.0f}  {taken / count * 1e6:7.0f}"
        print(f"{line}  {one * 1e3:17.1f}")


if __name__ == "__main__":
    main()

"""Judge the peer's quantizer by the conformance suite: `python benchmarks/judge_peers.py`.

ExecuTorch's own XNNPACKQuantizer runs unmodified on our engine, with its recipe for static int8, and its graphs run on
the kernels of our XNNPACK backend. So whatever differs in the verdicts is the quantizers' own.

Writes docs/conformance/peers.md, and for each kind of defect one script of public packages alone that shows it, which
it runs. `judge_peers:PEER` is the peer as data, for `quantizer-sdk conform`.
"""

from __future__ import annotations

import argparse
import copy
import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from quantizer_sdk import Backend, QuantizerError
from quantizer_sdk.backends.executorch.importing import importing
from quantizer_sdk.backends.xnnpack import BACKEND
from quantizer_sdk.conformance.outcome import CHECKS, Outcome, Status, case_check
from quantizer_sdk.conformance.report import Report
from quantizer_sdk.conformance.run import Settings, run_suite
from quantizer_sdk.conformance.scenario import Scenario
from quantizer_sdk.conformance.suite import Selection, scenarios_of

__all__ = ["PEER"]


def _quantizer(*, is_per_channel: bool = True) -> Any:
    """Return ExecuTorch's quantizer with its own configuration for all ops.

    Raises:
        MissingDependencyError: ExecuTorch is not installed.
    """
    with importing():
        from executorch.backends.xnnpack.quantizer import xnnpack_quantizer_utils
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
    export = xnnpack_quantizer_utils._get_aten_graph_module_for_pattern
    if not isinstance(export, _Kept):
        xnnpack_quantizer_utils._get_aten_graph_module_for_pattern = _Kept(export)
    return XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=is_per_channel))


class _Kept:
    """Exports a pattern of the peer's once: by itself it exports all twelve, 3 s, at every graph that it annotates."""

    def __init__(self, export: Callable[..., Any]) -> None:
        self._export = export
        self._patterns: dict[Any, Any] = {}

    def __call__(self, pattern: nn.Module, example_inputs: tuple[Any, ...], is_cuda: bool = False) -> Any:
        """Return a copy of the pattern's graph, for matching changes it."""
        function: Any = pattern.fn
        cells = tuple(cell.cell_contents for cell in function.__closure__)
        key = (function.__code__, cells, example_inputs[0].shape, is_cuda)
        if key not in self._patterns:
            self._patterns[key] = self._export(pattern, example_inputs, is_cuda)
        return copy.deepcopy(self._patterns[key])


PEER = Backend(
    name="executorch-xnnpack-quantizer",
    quantizer=_quantizer,
    runner=BACKEND.runner,
    profile=BACKEND.profile,
    configurations={"s8.pc": _quantizer, "s8.pt": functools.partial(_quantizer, is_per_channel=False)},
)


_DOCUMENT = Path(__file__).parents[1] / "docs" / "conformance" / "peers.md"
_SCRIPTS = _DOCUMENT.parent / "peers"
_GRAPHS = "random graphs"
_TRIED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """Cases that fall short in the same way.

    Attributes:
        checks: The checks that they fall short of.
        signature: In what way.
        subject: The op that begins their graphs, or "random graphs".
        outcomes: The cases.
    """

    checks: tuple[str, ...]
    signature: str
    subject: str
    outcomes: tuple[Outcome, ...]

    @property
    def name(self) -> str:
        """How its script is called."""
        words = f"{self.checks[0]}-{self.subject}-{self.signature}".lower().replace("aten.", "").replace(" ", "-")
        return "".join(letter for letter in words if letter.isalnum() or letter in "-_")


def defects_of(report: Report) -> list[Defect]:
    """Group what falls short: several checks that say the same of an op are one defect, and so are all random graphs.

    Cases that only follow from a program that cannot be made are left out.
    """
    groups: dict[tuple[str, str, str], list[Outcome]] = {}
    for outcome in report.outcomes:
        if outcome.status.falls_short and outcome.status is not Status.UNKNOWN:
            subject = outcome.id.split("/")[1].split("+")[0]
            subject = _GRAPHS if subject.startswith("graph.") else subject
            groups.setdefault((case_check(outcome.id), outcome.signature, subject), []).append(outcome)
    same: dict[tuple[str, str, str], list[str]] = {}
    for (check, signature, subject), outcomes in sorted(groups.items()):
        same.setdefault((signature, subject, outcomes[0].message), []).append(check)
    return [
        Defect(
            checks=tuple(checks),
            signature=signature,
            subject=subject,
            outcomes=tuple(outcome for check in checks for outcome in groups[check, signature, subject]),
        )
        for (signature, subject, _message), checks in same.items()
    ]


def written_scripts(defects: list[Defect], seed: int) -> Iterator[tuple[Defect, str]]:
    """Write and run a script for each defect, of its smallest case; yield what it showed."""
    scenarios = {id_: scenario for scenario in scenarios_of(PEER) for id_ in scenario.case_ids()}
    _SCRIPTS.mkdir(exist_ok=True)
    for old in _SCRIPTS.glob("*.py"):
        old.unlink()
    shown = {(defect.checks, defect.signature) for defect in defects if defect.subject != _GRAPHS}
    for defect in tqdm(defects, desc="scripts", file=sys.stderr):
        if defect.subject == _GRAPHS and (defect.checks, defect.signature) in shown:
            yield defect, "as for the ops"
            continue
        try:
            text = min((_script(scenarios[o.id], o, seed) for o in defect.outcomes[:_TRIED]), key=len)
        except QuantizerError as e:
            yield defect, f"no script: {str(e).split(',')[0].splitlines()[0]}"
            continue
        path = _SCRIPTS / f"{defect.name}.py"
        path.write_text(text, encoding="utf-8")
        result = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=300, check=False)
        if result.returncode == 1:
            yield defect, f"[shown](peers/{path.name})"
        else:
            path.unlink()
            yield defect, "no code shows it: the check looks at the quantizer"


def _script(scenario: Scenario, outcome: Outcome, seed: int) -> str:
    from quantizer_sdk.conformance.standalone import standalone_script

    return standalone_script(scenario, PEER, outcome, seed)


def _part(report: Report) -> str:
    patterns = report.selection.get("select", "").split()
    more = f" and {len(patterns) - 3} patterns more" if len(patterns) > 3 else ""
    return f"Only {len(report.outcomes)} cases were run: `{'`, `'.join(patterns[:3])}`{more}."


def document(report: Report, shown: list[tuple[Defect, str]]) -> str:
    """Return docs/conformance/peers.md."""
    versions = ", ".join(f"{name} {report.environment[name]}" for name in ("torch", "executorch"))
    lines = [
        "# Peers judged",
        "",
        "ExecuTorch's own `XNNPACKQuantizer`, per channel and per tensor, runs unmodified on our engine, its graphs on",
        f"the kernels that ours run on. Written by `python benchmarks/judge_peers.py` ({versions},",
        f"{report.environment['isa']}, seed {report.seed}). Cases come from what it claims when all ops of the corpus",
        "are offered to it.",
        "",
        *([_part(report), ""] if report.selection else []),
        f"Verdict: **{report.verdict}**.",
        "",
        "| Level | " + " | ".join(status.value for status in Status) + " | reached |",
        "|---|" + "---|" * (len(Status) + 1),
    ]
    for level in report.levels():
        counts = " | ".join(str(level.counts.get(status, 0)) for status in Status)
        lines.append(f"| {level.name} | {counts} | {'yes' if level.reached else 'no'} |")
    lines += [
        "",
        "UNKNOWN are cases whose program cannot be lowered, loaded or run; the D1 case beside each says why.",
        "MISTRUSTED are cases that prove nothing: with a float bias a channel may be more than half a step off.",
        "",
        "## What falls short",
        "",
        "One line for each check, kind of shortfall and op. A script holds the quantized graph as torch code and needs",
        "torch and executorch alone: it exits with 1 where the defect is there, as it did when this page was written.",
        "",
        "| Check | Op | Cases | What was found, in the first of them | Script |",
        "|---|---|---|---|---|",
    ]
    for defect, script in shown:
        first = defect.outcomes[0]
        found = " ".join(first.message.split()).replace("|", "/")
        found = found if len(found) <= 260 else f"{found[:257]}..."
        said = CHECKS[defect.checks[0]][1].split(";")[0].split(":")[0]
        check = f"{', '.join(defect.checks)}: {said}" if len(defect.checks) == 1 else ", ".join(defect.checks)
        cells = (check, defect.subject, str(len(defect.outcomes)), f"`{first.id}`: {found}", script)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the suite on the peer and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--select", action="append", default=[], help="case ids, as fnmatch reads them")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--journal", type=Path, help="a file that an interrupted run resumes from")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    settings = Settings(
        backend="judge_peers:PEER",
        selection=Selection(patterns=tuple(options.select)),
        seed=options.seed,
        workers=options.jobs,
        journal=options.journal,
    )
    with tqdm(desc="cases", file=sys.stderr) as bar:

        def show(done: int, total: int, _last: Any) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = run_suite(settings, show)
    shown = list(written_scripts(defects_of(report), options.seed))
    _DOCUMENT.write_text(document(report, shown), encoding="utf-8")
    print(f"{report.verdict}: {len(shown)} kinds of shortfall; wrote {_DOCUMENT}")


if __name__ == "__main__":
    main()

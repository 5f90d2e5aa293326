"""Judge a peer's quantizer by the conformance suite: `python benchmarks/judge_peers.py xnnpack`.

It runs unmodified on our engine, with its own recipe, and its graphs run on the kernels of our backend. So whatever
differs in the verdicts is the quantizers' own.

Writes its page in docs/conformance, and for each kind of defect one script of public packages alone that shows it,
which it runs. `peers.xnnpack:PEER` is a peer as data, for `quantizer-sdk conform`.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers.peer import Peer
from peers.quantize_static import QUANTIZE_STATIC
from peers.x86_inductor import X86_INDUCTOR
from peers.xnnpack import XNNPACK
from tqdm import tqdm

from quantizer_sdk import QuantizerError
from quantizer_sdk.conformance.outcome import CHECKS, Outcome, Status, case_check
from quantizer_sdk.conformance.report import Report
from quantizer_sdk.conformance.run import Settings, run_suite
from quantizer_sdk.conformance.scenario import Scenario
from quantizer_sdk.conformance.suite import Selection, scenarios_of

_DOCUMENTS = Path(__file__).parents[1] / "docs" / "conformance"
_PEERS = {"xnnpack": XNNPACK, "x86": X86_INDUCTOR, "quantize_static": QUANTIZE_STATIC}
_GRAPHS = "random graphs"
_TRIED = 4
_SHOWN = Path(__file__).parent / "peers" / "shown"
_SHOWN_FROM_PAGE = "../../benchmarks/peers/shown"


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


def written_scripts(peer: Peer, defects: list[Defect], seed: int) -> Iterator[tuple[Defect, str]]:
    """Write and run a script for each defect, of its smallest case; yield what it showed."""
    scenarios = {id_: scenario for scenario in scenarios_of(peer.backend) for id_ in scenario.case_ids()}
    folder = _DOCUMENTS / peer.page
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.py"):
        old.unlink()
    shown = {(defect.checks, defect.signature) for defect in defects if defect.subject != _GRAPHS}
    for defect in tqdm(defects, desc="scripts", file=sys.stderr):
        if defect.subject == _GRAPHS and (defect.checks, defect.signature) in shown:
            yield defect, "as for the ops"
            continue
        path = folder / f"{defect.name}.py"
        try:
            text = min((_script(peer, scenarios[o.id], o, seed) for o in defect.outcomes[:_TRIED]), key=len)
        except Exception as e:  # noqa: BLE001  # a peer may raise anything
            kind = "" if isinstance(e, QuantizerError) else f"{type(e).__name__}: "
            words = f"no script: {kind}{str(e).split(',')[0].splitlines()[0]}"
        else:
            path.write_text(text, encoding="utf-8")
            if _shows(path):
                yield defect, f"[shown]({peer.page}/{path.name})"
                continue
            path.unlink()
            words = "no code shows it: the check looks at the quantizer"
        hand = next(
            (script for pattern, script in peer.shown.items() if fnmatch.fnmatchcase(defect.name, pattern)), None
        )
        yield defect, words if hand is None or not _shows(_SHOWN / hand) else f"[shown]({_SHOWN_FROM_PAGE}/{hand})"


def _shows(script: Path) -> bool:
    """Whether a script, run, says that the defect is there."""
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False)
    return result.returncode == 1 and "Traceback" not in result.stderr


def _script(peer: Peer, scenario: Scenario, outcome: Outcome, seed: int) -> str:
    from quantizer_sdk.conformance.standalone import standalone_script

    return standalone_script(scenario, peer.backend, outcome, seed)


def _part(report: Report) -> str:
    patterns = report.selection.get("select", "").split()
    more = f" and {len(patterns) - 3} patterns more" if len(patterns) > 3 else ""
    return f"Only {len(report.outcomes)} cases were run: `{'`, `'.join(patterns[:3])}`{more}."


def _others(peer: Peer) -> list[str]:
    """Return the line that names the other peers' pages, if there are any."""
    others = [other for other in _PEERS.values() if other is not peer and (_DOCUMENTS / f"{other.page}.md").exists()]
    return [f"Others: {', '.join(f'[{other.title}]({other.page}.md)' for other in others)}.", ""] if others else []


def document(peer: Peer, report: Report, shown: list[tuple[Defect, str]]) -> str:
    """Return the page of a peer."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in peer.packages)
    lines = [
        f"# {peer.title}",
        "",
        *peer.introduction,
        "",
        *_others(peer),
        f"Written by `python benchmarks/judge_peers.py` ({versions},",
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
        "UNKNOWN are cases that nothing can look at: no program is made (the D1 or C1 case beside it says why), the op",
        "has no exact form here, or the profile does not say how a kernel rounds that the peer alone asks for.",
        "MISTRUSTED are cases that prove nothing: with a float bias a channel may be more than half a step off.",
        "",
        "## What falls short",
        "",
        "One line for each check, kind of shortfall and op. A script needs no package of",
        "ours: it exits with 1 where the defect is there, as it did when this page was written.",
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
    parser.add_argument("peer", choices=list(_PEERS), help="whom to judge")
    parser.add_argument("--select", action="append", default=[], help="case ids, as fnmatch reads them")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--journal", type=Path, help="a file that an interrupted run resumes from")
    options = parser.parse_args()
    peer = _PEERS[options.peer]
    settings = Settings(
        backend=peer.where,
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
    shown = list(written_scripts(peer, defects_of(report), options.seed))
    page = _DOCUMENTS / f"{peer.page}.md"
    page.write_text(document(peer, report, shown), encoding="utf-8")
    print(f"{report.verdict}: {len(shown)} kinds of shortfall; wrote {page}")


if __name__ == "__main__":
    main()

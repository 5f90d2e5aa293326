"""The matrix of mutants and the checks that kill them, as a page of the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from quantizer_sdk.conformance.mutants.elsewhere import Elsewhere
from quantizer_sdk.conformance.mutants.judge import Judgement
from quantizer_sdk.conformance.mutants.mutant import Kind, Mutant
from quantizer_sdk.conformance.outcome import CHECKS

__all__ = ["Entry", "published", "render", "render_elsewhere"]

_TITLES = {
    Kind.QUANTIZER: "Wrong quantizers",
    Kind.ENGINE: "Wrong engines",
    Kind.KERNEL: "Wrong kernels and runtimes",
}
_ROW = re.compile(r"\| `([a-z0-9_]+)` \| (.+) \| (.+) \| (.*) \|")
_REPORTED_ONLY = "D4"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A mutant as the page shows it.

    Attributes:
        harm: What its user would suffer.
        killers: The checks that must find it.
        also: The other checks that do.
    """

    harm: str
    killers: tuple[str, ...]
    also: tuple[str, ...]

    @classmethod
    def of(cls, mutant: Mutant, caught_by: Sequence[str] = ()) -> Entry:
        """Return the entry of a mutant that these checks found."""
        also = tuple(check for check in caught_by if check not in mutant.killers)
        return cls(harm=mutant.harm, killers=mutant.killers, also=also)


def render(judgements: Sequence[Judgement]) -> str:
    """Return the page, as Markdown."""
    lines = [
        "# Mutants",
        "",
        "Backends that are wrong on purpose, and the checks that find each of them out. They are made from right ones",
        "by one mistake each: quantizers from that of the XNNPACK backend, kernels from an emulator of its profile.",
        "Every check in the third column must find the mutant, on scenarios that each run of the suite has; those in",
        "the fourth find it too. The right backends, and XNNPACK's own kernels, pass on the same scenarios.",
        "",
        "Written by `python benchmarks/conformance_mutants.py`, which judges all of them anew; tests hold every mutant",
        "to the checks that it names.",
        "",
        f"**{len(judgements)} mutants, {sum(not judgement.survived for judgement in judgements)} killed.**",
    ]
    for kind, title in _TITLES.items():
        found = [judgement for judgement in judgements if judgement.mutant.kind is kind]
        lines += ["", f"## {title}: {len(found)}", "", "| Mutant | Harm | Killed by | Also |", "|---|---|---|---|"]
        lines += [_row(judgement) for judgement in found]
    lines += ["", "## By check", "", "| Check | States | Named by | Finds |", "|---|---|--:|--:|"]
    for check, (_level, statement) in CHECKS.items():
        if check != _REPORTED_ONLY:
            named = sum(check in judgement.mutant.killers for judgement in judgements)
            finds = sum(check in judgement.caught_by for judgement in judgements)
            lines.append(f"| {check} | {statement} | {named} | {finds} |")
    return "\n".join(lines) + "\n"


def render_elsewhere(found: Mapping[str, Sequence[Elsewhere]]) -> str:
    """Return the page of mutants made of a backend's parts, as Markdown.

    Args:
        found: By the name of a part, what became of each mutant.
    """
    lines = [
        "# Mutants on x86",
        "",
        "The [mutants](mutants.md) made of the x86 backend's tables and profiles, part by part, in place of XNNPACK's.",
        "Where a part has no row for an op alone, the op behind a convolution stands in for it. Written by",
        "`python benchmarks/conformance_mutants.py --x86`; tests hold every mutant to its fate.",
        "",
        "| Part | Killed | No mistake there | No such case | Survive |",
        "|---|--:|--:|--:|--:|",
    ]
    for part, fates in found.items():
        counts = [sum(it.fate == fate for it in fates) for fate in ("killed", "no mistake", "no case", "survives")]
        lines.append(f"| {part} | {' | '.join(str(count) for count in counts)} |")
    for part, fates in found.items():
        harmless = [it for it in fates if it.fate == "no mistake"]
        missing = [f"`{it.mutant.name}`" for it in fates if it.fate == "no case"]
        lines += ["", f"## {part}", "", "| No mistake | Why |", "|---|---|"]
        lines += [f"| `{it.mutant.name}` | {it.no_mistake} |" for it in harmless]
        lines += ["", f"No such case: {', '.join(missing) or 'none'}."]
    return "\n".join(lines) + "\n"


def _row(judgement: Judgement) -> str:
    entry = Entry.of(judgement.mutant, judgement.caught_by)
    killers = " ".join(f"~~{check}~~" if check in judgement.survived else check for check in entry.killers)
    return f"| `{judgement.mutant.name}` | {entry.harm} | {killers} | {' '.join(entry.also)} |"


def published(page: str) -> Mapping[str, Entry]:
    """Read the mutants of a page; struck-out killers are none."""
    return dict(_entries(page.splitlines()))


def _entries(lines: Iterable[str]) -> Iterable[tuple[str, Entry]]:
    for line in lines:
        match = _ROW.fullmatch(line)
        if match is not None:
            name, harm, killers, also = match.groups()
            yield name, Entry(harm=harm, killers=tuple(killers.split()), also=tuple(also.split()))

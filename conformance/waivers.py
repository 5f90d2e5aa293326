"""Waivers: known shortfalls that somebody answers for, until a date, and that are pointed out when they are gone."""

from __future__ import annotations

import datetime as dt
import fnmatch
import importlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from quantizer_sdk.conformance.outcome import Outcome, Status
from quantizer_sdk.errors import MissingDependencyError, WaiverError

__all__ = ["Waived", "WaivedGroup", "Waiver", "apply_waivers", "load_waivers", "waived", "waived_groups"]

_PATTERN = re.compile(r"[A-Za-z0-9_.,:=@+/*?!\[\]-]+")
_LINK = re.compile(r"https?://\S+")
_WAIVED = re.compile(
    r"(?P<status>[A-Z]+): (?P<found>.*)\n"
    r"waived until (?P<expires>\d{4}-\d{2}-\d{2}), owner (?P<owner>[^;\n]+); see (?P<link>\S+); because (?P<reason>.+)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """One entry of a waiver file.

    Attributes:
        id: A case id, or a pattern of ids as `fnmatch` reads it: "L3.K3/aten.add.*/s8.pt/*".
        reason: Why the shortfall is accepted; one line.
        link: The URL where it is tracked.
        owner: Who answers for it; one line without a semicolon.
        expires: The last day on which it holds.
        signature: The signature that the cases must have: another shortfall is not waived.

    Raises:
        WaiverError: A field holds something else.
    """

    id: str
    reason: str
    link: str
    owner: str
    expires: dt.date
    signature: str

    def __post_init__(self) -> None:
        for name in ("id", "reason", "link", "owner", "signature"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip() or value.splitlines() != [value]:
                raise WaiverError(f"{name} = {value!r}; expected a text of one line")
        if not _PATTERN.fullmatch(self.id):
            message = (
                f"id = {self.id!r}; expected a case id, or a pattern with *, ? and [...], such as 'L3.K3/*/s8.pt/*'"
            )
            raise WaiverError(message)
        if not _LINK.fullmatch(self.link):
            raise WaiverError(f"link = {self.link!r}; expected a URL that starts with https:// or http://")
        if ";" in self.owner:
            raise WaiverError(f"owner = {self.owner!r}; expected a name or an address without a semicolon")
        if type(self.expires) is not dt.date:  # a datetime is a date too
            message = f"expires = {str(self.expires)!r}, a {type(self.expires).__name__}"
            raise WaiverError(f"{message}; expected a date without quotes, such as expires = 2030-12-31")

    def matches(self, id_: str) -> bool:
        """Return whether the pattern covers this case."""
        return fnmatch.fnmatchcase(id_, self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waived:
    """What the message of a WAIVED case says.

    Attributes:
        status: The status that the case would have.
        found: The message that it would have.
        reason: The waiver's reason.
        link: Where it is tracked.
        owner: Who answers for it.
        expires: The last day on which it holds.
    """

    status: Status
    found: str
    reason: str
    link: str
    owner: str
    expires: dt.date

    def __str__(self) -> str:
        waiver = f"waived until {self.expires}, owner {self.owner}; see {self.link}; because {self.reason}"
        return f"{self.status.value}: {self.found}\n{waiver}"


def waived(message: str) -> Waived | None:
    """Read the message that `apply_waivers` gave a WAIVED case; None where it is none of its messages."""
    match = _WAIVED.fullmatch(message)
    if match is None:
        return None
    try:
        status, expires = Status(match["status"]), dt.date.fromisoformat(match["expires"])
    except ValueError:  # no such status, no such day
        return None
    texts = {name: match[name] for name in ("found", "reason", "link", "owner")}
    return Waived(status=status, expires=expires, **texts) if status.falls_short else None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaivedGroup:
    """Cases that were waived for the same reason.

    Attributes:
        ids: The cases, in their order.
        reason: The waiver's reason.
        link: Where it is tracked.
        owner: Who answers for it.
        expires: The last day on which it holds.
    """

    ids: tuple[str, ...]
    reason: str
    link: str
    owner: str
    expires: dt.date


def waived_groups(outcomes: Iterable[Outcome]) -> tuple[WaivedGroup, ...]:
    """Return the waived cases by waiver, what expires first first."""
    groups: dict[tuple[dt.date, str, str, str], list[str]] = {}
    for outcome in outcomes:
        note = waived(outcome.message) if outcome.status is Status.WAIVED else None
        if note is not None:
            groups.setdefault((note.expires, note.owner, note.link, note.reason), []).append(outcome.id)
    return tuple(
        WaivedGroup(ids=tuple(ids), reason=reason, link=link, owner=owner, expires=expires)
        for (expires, owner, link, reason), ids in sorted(groups.items())
    )


def load_waivers(path: str | Path) -> tuple[Waiver, ...]:
    """Read a TOML file of `[[waiver]]` tables, whose keys are the fields of `Waiver`; all are required.

    Raises:
        MissingDependencyError: Python 3.10 has no TOML reader of its own, and tomli is not installed.
        WaiverError: There is no such file, it is no TOML, or an entry is malformed.
    """
    toml = _toml_reader()
    try:
        content: dict[str, Any] = toml.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as e:
        raise WaiverError(f"waiver file {path}: {e.strerror}; expected a TOML file") from e
    except ValueError as e:  # TOMLDecodeError and UnicodeDecodeError
        raise WaiverError(f"waiver file {path} is no TOML: {e}") from e
    entries = content.get("waiver", [])
    strange = sorted(content.keys() - {"waiver"})
    if strange or not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        found = f"has {', '.join(strange)}" if strange else "has a waiver that is no array of tables"
        raise WaiverError(f"waiver file {path} {found}; expected [[waiver]] tables and nothing else")
    waivers: list[Waiver] = []
    for number, entry in enumerate(entries, start=1):
        place = f"waiver file {path}, entry {number} ({entry.get('id', 'without id')})"
        waiver = _read_entry(entry, place)
        if any((waiver.id, waiver.signature) == (other.id, other.signature) for other in waivers):
            raise WaiverError(f"{place}: its id and signature occurred before; expected each pair once")
        waivers.append(waiver)
    return tuple(waivers)


def _toml_reader() -> Any:
    """Return tomllib, or on Python 3.10 the package that it came from."""
    try:
        return importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ImportError as e:
        raise MissingDependencyError(f'waiver files need tomli, but {e}: pip install "quantizer-sdk[report]"') from e


def _read_entry(entry: Mapping[str, Any], place: str) -> Waiver:
    expected = [field.name for field in fields(Waiver)]
    missing = [name for name in expected if name not in entry]
    unknown = sorted(entry.keys() - set(expected))
    if missing or unknown:
        found = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has {', '.join(unknown)}"] * bool(unknown)
        raise WaiverError(f"{place} {' and '.join(found)}; expected {', '.join(expected)}")
    try:
        return Waiver(**entry)
    except WaiverError as e:
        raise WaiverError(f"{place}: {e}") from e


def apply_waivers(
    outcomes: Sequence[Outcome],
    waivers: Sequence[Waiver],
    today: dt.date,
    *,
    known: Iterable[str] = (),
) -> tuple[tuple[Outcome, ...], tuple[str, ...]]:
    """Turn cases that fall short as a waiver expects into WAIVED ones, and say which waivers are wrong.

    A case is waived by the first waiver that has not expired, matches its id and expects its signature. A waiver is
    wrong if it has expired, if no case has such an id, if no case that it matches falls short, if one that does has
    another signature and is left unwaived, or if other waivers cover all that it would.

    Args:
        outcomes: Results, in any order; their order is kept.
        waivers: What is accepted.
        today: The day on which waivers must hold.
        known: Ids of cases that were not run, as in a run of a selection: a waiver for some of these is no flaw.

    Returns:
        The outcomes, and the flaws in the waivers, as `Report.flaws` takes them.
    """
    used: dict[Waiver, int] = dict.fromkeys(waivers, 0)
    holding = [waiver for waiver in waivers if today <= waiver.expires]
    result = []
    for outcome in outcomes:
        fitting = (w for w in holding if w.signature == outcome.signature and w.matches(outcome.id))
        waiver = next(fitting, None) if outcome.status.falls_short else None
        if waiver is not None:
            used[waiver] += 1
        result.append(outcome if waiver is None else _waive(outcome, waiver))
    unrun = set(known) - {outcome.id for outcome in outcomes}
    flaws = []
    for waiver in waivers:
        matched = [outcome for outcome in result if waiver.matches(outcome.id)]
        flaw = _flaw(waiver, matched, used[waiver], today, partial=any(map(waiver.matches, unrun)))
        flaws += [] if flaw is None else [f"waiver {waiver.id} (owner {waiver.owner}) {flaw}"]
    return tuple(result), tuple(flaws)


def _waive(outcome: Outcome, waiver: Waiver) -> Outcome:
    note = Waived(
        status=outcome.status,
        found=outcome.message,
        reason=waiver.reason,
        link=waiver.link,
        owner=waiver.owner,
        expires=waiver.expires,
    )
    return replace(outcome, status=Status.WAIVED, message=str(note))


def _flaw(waiver: Waiver, matched: list[Outcome], used: int, today: dt.date, *, partial: bool) -> str | None:
    """Return what is wrong with a waiver, given the cases that it matches, as they are after waiving."""
    if today > waiver.expires:
        return f"expired on {waiver.expires}; mend the cause, or renew it with a new date"
    short = [outcome for outcome in matched if outcome.status.falls_short]
    if short:
        found = f"{short[0].id} is {short[0].status.value} with signature {short[0].signature!r}"
        more = f", and {len(short) - 1} more" if len(short) > 1 else ""
        return f"expects signature {waiver.signature!r}, but {found}{more}"
    if used or partial:
        return None
    if not matched:
        return "matches no case; correct its id, or remove it"
    if any(outcome.status is Status.WAIVED for outcome in matched):
        return "waives nothing that another does not; remove it"
    return f"is no longer needed: none of the {len(matched)} cases that it matches falls short; remove it"

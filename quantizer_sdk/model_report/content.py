"""What the report of a model says, before it is laid out: plain data that a template fills in."""

from __future__ import annotations

from dataclasses import dataclass

from quantizer_sdk.model_report.drawing import Cell

__all__ = ["Advice", "Card", "Content", "Picture", "Row"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One figure of the summary: what it is, its value, and a word on it."""

    title: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One thing to do.

    Attributes:
        text: What, in a sentence.
        gain: What to expect of it, in words.
        rows: Names of the ops that it is about.
        order: What advice is sorted by, most first.
    """

    text: str
    gain: str
    rows: tuple[str, ...] = ()
    order: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One op, input or output of the model.

    Attributes:
        name: The node's name.
        op: Its overload.
        state: One of `explain`'s, or "input" and "output".
        cell: What is drawn beside it.
        summary: What is said of it in the table.
        details: (what, value) pairs that are shown when it is opened.
        sqnr: Of its result, with all that is before it, in dB; None where it was not compared.
        own_sqnr: Of its result alone, in dB.
        blame: Its share of what all layers add by themselves, 0 to 1.
    """

    name: str
    op: str
    state: str
    cell: Cell
    summary: str = ""
    details: tuple[tuple[str, str], ...] = ()
    sqnr: float | None = None
    own_sqnr: float | None = None
    blame: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A plot: a PNG in base64, with what it shows."""

    title: str
    png: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The whole report.

    Attributes:
        title: The model's name.
        cards: The summary.
        advice: In order of expected gain.
        warnings: Of `explain`, in words.
        coverage: (op, number of ops in each of `states`), by op.
        states: The states that occur.
        rows: In graph order.
        pictures: Plots.
        facts: (what, value) pairs on how the report was made.
    """

    title: str
    cards: tuple[Card, ...]
    advice: tuple[Advice, ...]
    warnings: tuple[str, ...]
    coverage: tuple[tuple[str, tuple[int, ...]], ...]
    states: tuple[str, ...]
    rows: tuple[Row, ...]
    pictures: tuple[Picture, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()

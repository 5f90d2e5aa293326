"""The conformance suite: an exact oracle for converted graphs, and verdicts on the kernels that run them."""

from quantizer_sdk.conformance.bounds import Traced
from quantizer_sdk.conformance.emulator import emulate
from quantizer_sdk.conformance.exact import ExactValue, Term
from quantizer_sdk.conformance.oracle import OracleResult, Site, run_oracle
from quantizer_sdk.conformance.ties import (
    TieCase,
    add_ties,
    boundary_codes,
    dot_ties,
    mean_ties,
    mul_ties,
    tie_fraction,
)
from quantizer_sdk.conformance.verdict import Element, Requantized, Verdict, judge

__all__ = [
    "Element",
    "ExactValue",
    "OracleResult",
    "Requantized",
    "Site",
    "Term",
    "TieCase",
    "Traced",
    "Verdict",
    "add_ties",
    "boundary_codes",
    "dot_ties",
    "emulate",
    "judge",
    "mean_ties",
    "mul_ties",
    "run_oracle",
    "tie_fraction",
]

"""Backends that are wrong on purpose: proof that the suite finds what it says it finds."""

from quantizer_sdk.conformance.mutants.catalogue import MUTANTS, SOUND, cases_of
from quantizer_sdk.conformance.mutants.judge import Judgement, judge_mutant, judge_mutants, shortfalls
from quantizer_sdk.conformance.mutants.mutant import Kind, Mutant

__all__ = [
    "MUTANTS",
    "SOUND",
    "Judgement",
    "Kind",
    "Mutant",
    "cases_of",
    "judge_mutant",
    "judge_mutants",
    "shortfalls",
]

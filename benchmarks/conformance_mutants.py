"""Judge every mutant and write docs/conformance/mutants.md: `python benchmarks/conformance_mutants.py`. Takes minutes.

With `--x86`, those made of the x86 backend's tables and profiles, and docs/conformance/mutants-x86.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from quantizer_sdk import find_backend
from quantizer_sdk.conformance.mutants import MUTANTS, judge_mutants
from quantizer_sdk.conformance.mutants.elsewhere import judge_elsewhere
from quantizer_sdk.conformance.mutants.healthy import Donor
from quantizer_sdk.conformance.mutants.page import render, render_elsewhere

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "conformance"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--x86", action="store_true", help="judge those made of the x86 backend's parts")
    parser.add_argument("--page", type=Path, help="where to write; by default the page in docs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.x86:
        parts = [part.name for part in find_backend("x86").parts]
        found = {
            part: list(tqdm(judge_elsewhere(MUTANTS, Donor("x86", part)), total=len(MUTANTS), desc=part))
            for part in parts
        }
        page = options.page or FOLDER / "mutants-x86.md"
        page.write_text(render_elsewhere(found), encoding="utf-8")
        survivors = [str(it.judgement) for fates in found.values() for it in fates if it.fate == "survives"]
    else:
        judgements = list(tqdm(judge_mutants(MUTANTS), total=len(MUTANTS), unit=" mutants"))
        page = options.page or FOLDER / "mutants.md"
        page.write_text(render(judgements), encoding="utf-8")
        survivors = [str(judgement) for judgement in judgements if judgement.survived]
    print(f"{len(survivors)} survive; {page}")
    sys.exit("\n".join(survivors) or None)


if __name__ == "__main__":  # spawned workers import this file
    main()

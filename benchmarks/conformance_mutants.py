"""Judge every mutant and write the matrix: docs/conformance/mutants.md, or the file named. Takes some minutes."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tqdm import tqdm

from quantizer_sdk.conformance.mutants import MUTANTS, judge_mutants
from quantizer_sdk.conformance.mutants.page import render

PAGE = Path(__file__).resolve().parent.parent / "docs" / "conformance" / "mutants.md"


def main() -> None:
    torch.set_num_threads(1)
    page = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    judgements = list(tqdm(judge_mutants(MUTANTS), total=len(MUTANTS), unit=" mutants"))
    page.write_text(render(judgements))
    survivors = [str(judgement) for judgement in judgements if judgement.survived]
    print(f"{len(judgements) - len(survivors)} of {len(judgements)} mutants killed; {page}")
    sys.exit("\n".join(survivors) or None)


if __name__ == "__main__":  # spawned workers import this file
    main()

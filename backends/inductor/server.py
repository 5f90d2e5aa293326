"""What runs in a process of another instruction set: lowers the models that it is asked for, and runs them.

Each line on standard input names a folder; the answer is one line of JSON, and files in that folder.
"""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from pathlib import Path

import torch

from quantizer_sdk.backends.inductor.lowering import lower_inductor
from quantizer_sdk.backends.inductor.program import InductorProgram

__all__ = ["GENERATED", "INPUTS", "MODEL", "OUTPUTS", "serve"]

MODEL, INPUTS, OUTPUTS, GENERATED = "model.pt2", "inputs.pt", "outputs.pt", "generated.py"
_KEPT = 8


def serve() -> None:
    """Answer until standard input ends."""
    programs: OrderedDict[str, InductorProgram] = OrderedDict()
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever torch prints is no answer
    for line in sys.stdin:
        error = None
        try:
            _answer(Path(line.strip()), programs)
        except Exception as e:  # noqa: BLE001  the asking process is told
            error = f"{type(e).__name__}: {e}"
        answers.write(json.dumps({"error": error}) + "\n")
        answers.flush()


def _answer(folder: Path, programs: OrderedDict[str, InductorProgram]) -> None:
    """Run the model in a folder, lowered before or now, on each of the tuples of inputs there."""
    program = programs.pop(str(folder), None)
    batches = torch.load(folder / INPUTS, weights_only=True)
    if program is None:
        exported = torch.export.load(folder / MODEL)
        assert exported.example_inputs is not None
        # What the asking process lowered is what is lowered here, whatever becomes of it.
        program = lower_inductor(exported.module(check_guards=False), exported.example_inputs[0], min_fused=0)
        (folder / GENERATED).write_text(program.source)
    programs[str(folder)] = program
    if len(programs) > _KEPT:
        programs.popitem(last=False)
    torch.save([program.run(*batch) for batch in batches], folder / OUTPUTS)


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve()

"""The inductor route: int8 models compiled by torch's own compiler, with its traps taken out.

from quantizer_sdk.backends.inductor import lower_inductor

program = lower_inductor(convert_pt2e(prepared), (x,))
(y,) = program.run(x)
"""

from quantizer_sdk.backends.inductor.lowering import lower_inductor, lower_unoptimized, package_inductor
from quantizer_sdk.backends.inductor.packaging import PackagedProgram, load_inductor
from quantizer_sdk.backends.inductor.profile import PROFILE
from quantizer_sdk.backends.inductor.program import InductorProgram
from quantizer_sdk.backends.inductor.without_vnni import lower_without_vnni

__all__ = [
    "PROFILE",
    "InductorProgram",
    "PackagedProgram",
    "load_inductor",
    "lower_inductor",
    "lower_unoptimized",
    "lower_without_vnni",
    "package_inductor",
]

"""What a page about a peer needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from quantizer_sdk import Backend

__all__ = ["Peer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another quantizer.

    Attributes:
        backend: It, on the kernels of a backend of ours: whatever differs in the verdicts is the quantizers' own.
        where: The backend as `package.module:Name`.
        page: Its page in docs/conformance, and the folder of its scripts, without suffix.
        title: The page's.
        introduction: Sentences about it, in lines.
        packages: The packages whose versions the page names.
        shown: By a pattern of a defect's name, as `fnmatch` reads it: a script beside this file, in `shown`, that shows
            it by these packages alone where no written script does.
    """

    backend: Backend
    where: str
    page: str
    title: str
    introduction: tuple[str, ...]
    packages: tuple[str, ...]
    shown: Mapping[str, str] = field(default_factory=dict)

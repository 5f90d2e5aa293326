"""Reports with cases of every status, whose figures are as those of real checks: for tests of what is made of them."""

import datetime as dt
import random

from quantizer_sdk.conformance.outcome import CHECKS, Outcome, Status
from quantizer_sdk.conformance.report import Report
from quantizer_sdk.conformance.waivers import Waived

SUBJECTS = (
    "aten.add.Tensor",
    "aten.conv2d.default",
    "aten.linear.default",
    "aten.mul.Tensor",
    "aten.sigmoid.default",
    "chain.conv2d-relu",
    "model.mobilenet_v2",
)
EDGES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.2, 0.3, 0.4, 0.5)
HISTOGRAM_CHECKS = {"R1", "K1", "K2", "K3", "K5"}
STATUSES = (Status.PASS,) * 12 + tuple(Status)
NOTE = {"reason": "known rounding", "link": "https://example.org/1", "owner": "ann", "expires": dt.date(2030, 1, 31)}


def numbers(rng, *, wrong):
    """Return the figures of a comparison; with wrong ones, some lie outside of δ and are far off."""
    elements = rng.randrange(1000, 50000)
    near = rng.randrange(3, 30)
    off = {1: rng.randrange(near // 2 + 1), -1: rng.randrange(near // 2 + 1)} | ({-7: 5, 12: 40} if wrong else {})
    off = {error: count for error, count in off.items() if count}
    mismatches = sum(off.values())
    counts = [0, near, 2, 3, 5, elements // 50] + [elements // 6] * 4
    counts.append(elements - sum(counts))
    counts[-2:] = [sum(counts[-2:])]
    return {
        "elements": elements,
        "mismatches": mismatches,
        "allowed": near,
        "outside": 45 if wrong else 0,
        "near_tie": near,
        "max_lsb": max(map(abs, off), default=0),
        "mean_error": round(sum(error * count for error, count in off.items()) / elements, 9),
        "z": round(rng.gauss(0, 1), 3),
        "delta_max": 3.1e-6,
        "ties": rng.randrange(3),
        "distinct_codes": 251,
        "saturated": round(rng.random() / 10, 4),
        "error_histogram": {str(error): count for error, count in sorted((off | {0: elements - mismatches}).items())},
        "half_distances": {
            "edges": list(EDGES),
            "counts": counts,
            "mismatches": [0, min(mismatches, near), *[0] * 7, mismatches - min(mismatches, near)],
        },
    }


def outcome(id_, status, rng):
    """Return a case with that status, and a message and figures that go with it."""
    check = id_.split("/")[0].split(".")[1]
    figures = {}
    if check in HISTOGRAM_CHECKS and status is not Status.UNSUPPORTED:
        figures = numbers(rng, wrong=status not in {Status.PASS, Status.MISTRUSTED})
    elif check == "R2":
        figures = {"sqnr_db": round(38 + rng.random(), 2), "baseline_db": 39.5, "allowed_db": 3.4}
    found = f"{check} <found> & more at (0, {rng.randrange(9)}): actual 3, expected 4 | see the table\nexpected 4"
    message = "" if status is Status.PASS else found
    if status is Status.WAIVED:
        message = str(Waived(status=Status.FAIL, found=found, **NOTE))
    signature = f"{check}: off by one" if status.falls_short or status is Status.WAIVED else ""
    return Outcome(id=id_, status=status, message=message, signature=signature, numbers=figures, seconds=rng.random())


def sample_report(cases=300, *, seed=0, subjects=SUBJECTS, statuses=STATUSES, checks=tuple(CHECKS), **changes):
    """Return a report of that many cases, spread over the checks and the subjects."""
    rng = random.Random(seed)
    ids = set()
    for place in range(cases):
        check = checks[place % len(checks)]
        subject = subjects[place // len(checks) % len(subjects)]
        variant = place // (len(checks) * len(subjects))
        ids.add(f"{CHECKS[check][0]}.{check}/{subject}/s8.pt/variant_{variant:03d}/4d")
    outcomes = [outcome(id_, rng.choice(statuses), rng) for id_ in sorted(ids)]
    about = {
        "backend": "xnnpack",
        "runner": "executorch",
        "profile": "xnnpack",
        "environment": {"isa": "avx512_vnni", "python": "3.11.7", "torch": "2.13.0+cpu", "flags": "avx2 avx512f <x>"},
        "seed": 17,
        "selection": {},
        "seconds": 12.5,
    }
    return Report(**{**about, "outcomes": tuple(outcomes), **changes})

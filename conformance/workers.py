"""Scenarios run in worker processes: a crash or a hang is that scenario's outcome, and the run goes on."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantizer_sdk.conformance.outcome import Outcome, Status
from quantizer_sdk.conformance.scenario import Scenario
from quantizer_sdk.errors import MissingDependencyError

if TYPE_CHECKING:
    from quantizer_sdk import Backend

__all__ = ["Job", "run_scenarios"]

_AHEAD = 4
"""How many scenarios for each worker wait in its queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a worker needs to know before its first scenario.

    Attributes:
        backend: As `load_backend` takes it.
        runner: Likewise.
        profile: Likewise.
        seed: Of all random data.
        path: Folders to import from, those of this process.
    """

    backend: str
    runner: str | None
    profile: str | None
    seed: int
    path: tuple[str, ...] = ()


_loaded: dict[str, Any] = {}


def _start(job: Job) -> None:
    """Prepare a worker: one thread each, for there are as many workers as cores."""
    import sys

    import torch

    from quantizer_sdk.conformance.plug import load_backend

    sys.path[:] = list(job.path)
    torch.set_num_threads(1)
    _loaded["backend"] = load_backend(job.backend, runner=job.runner, profile=job.profile)
    _loaded["seed"] = job.seed


def _evaluate(scenario: Scenario) -> list[Outcome]:
    from quantizer_sdk.conformance.evaluate import evaluate

    backend: Backend = _loaded["backend"]
    return evaluate(scenario, backend, scenario.checks, _loaded["seed"])


def run_scenarios(
    scenarios: Sequence[Scenario], job: Job, *, workers: int, timeout: float
) -> Generator[tuple[Scenario, list[Outcome]], None, None]:
    """Yield each scenario with its outcomes as they come.

    Args:
        scenarios: What to run.
        job: For the workers.
        workers: How many processes.
        timeout: Seconds after which a scenario's worker is killed.

    Raises:
        MissingDependencyError: The package that runs the processes is missing.
    """
    try:
        from pebble import ProcessExpired, ProcessPool
    except ImportError as e:
        message = f'the suite\'s worker processes need pebble: pip install "quantizer-sdk[conform]" ({e})'
        raise MissingDependencyError(message) from e
    context = multiprocessing.get_context("spawn")
    with ProcessPool(max_workers=workers, initializer=_start, initargs=(job,), context=context) as pool:
        waiting: dict[Any, Scenario] = {}
        queue = iter(scenarios)
        exhausted = False
        try:
            while waiting or not exhausted:
                while not exhausted and len(waiting) < workers * _AHEAD:
                    scenario = next(queue, None)
                    if scenario is None:
                        exhausted = True
                        break
                    waiting[pool.schedule(_evaluate, args=(scenario,), timeout=timeout)] = scenario
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    scenario = waiting.pop(future)
                    yield scenario, _outcomes(future.result, scenario, timeout, ProcessExpired)
        except GeneratorExit:
            pool.stop()  # type: ignore[no-untyped-call]
            raise


def _outcomes(
    result: Callable[[], list[Outcome]], scenario: Scenario, timeout: float, expired: type[Exception]
) -> list[Outcome]:
    try:
        return result()
    except FutureTimeoutError:
        words, signature = f"the worker was killed after {timeout:g} s", "timeout"
    except expired as e:
        words, signature = f"the worker died: exit code {getattr(e, 'exitcode', None)}", "crash"
    except Exception as e:  # noqa: BLE001  # what a worker could not send back
        words, signature = f"{type(e).__name__}: {e}", type(e).__name__
    return [Outcome(id=id_, status=Status.ERROR, message=words, signature=signature) for id_ in scenario.case_ids()]

"""Scenarios run in worker processes: a crash or a hang is that scenario's outcome, and the run goes on."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantizer_sdk.conformance.outcome import Outcome, Status
from quantizer_sdk.conformance.scenario import Scenario
from quantizer_sdk.errors import MissingDependencyError

if TYPE_CHECKING:
    from quantizer_sdk import Backend

__all__ = ["Job", "evaluate_here", "open_pool", "outcomes_of", "run_scenarios", "script_here"]

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


def evaluate_here(scenario: Scenario) -> list[Outcome]:
    """Evaluate a scenario; in a worker."""
    from quantizer_sdk.conformance.evaluate import evaluate

    backend: Backend = _loaded["backend"]
    return evaluate(scenario, backend, scenario.checks, _loaded["seed"])


def script_here(scenario: Scenario, outcome: Outcome) -> str:
    """Write the script that reproduces an outcome; in a worker."""
    from quantizer_sdk.conformance.standalone import standalone_script

    return standalone_script(scenario, _loaded["backend"], outcome, _loaded["seed"])


@contextlib.contextmanager
def open_pool(job: Job, workers: int) -> Iterator[Any]:
    """Start worker processes; leave them, and what they still have to do, where the block is left by an error.

    Yields:
        A pebble.ProcessPool.

    Raises:
        MissingDependencyError: The package that runs the processes is missing.
    """
    try:
        from pebble import ProcessPool
    except ImportError as e:
        message = f'the suite\'s worker processes need pebble: pip install "quantizer-sdk[conform]" ({e})'
        raise MissingDependencyError(message) from e
    context = multiprocessing.get_context("spawn")
    with ProcessPool(max_workers=workers, initializer=_start, initargs=(job,), context=context) as pool:
        try:
            yield pool
        except BaseException:  # leaving the pool otherwise waits for all that is scheduled
            pool.stop()  # type: ignore[no-untyped-call]
            raise


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
    with open_pool(job, workers) as pool:
        waiting: dict[Any, Scenario] = {}
        queue = iter(scenarios)
        exhausted = False
        while waiting or not exhausted:
            while not exhausted and len(waiting) < workers * _AHEAD:
                scenario = next(queue, None)
                if scenario is None:
                    exhausted = True
                    break
                waiting[pool.schedule(evaluate_here, args=(scenario,), timeout=timeout)] = scenario
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                scenario = waiting.pop(future)
                yield scenario, outcomes_of(future.result, scenario, timeout)


def outcomes_of(result: Callable[[], list[Outcome]], scenario: Scenario, timeout: float) -> list[Outcome]:
    """Return what a worker found, or an error for each case where it died, hung, or could not say.

    Args:
        result: Waits for the worker, and returns or raises what came of it.
        scenario: What it ran.
        timeout: The seconds that it had.
    """
    from pebble import ProcessExpired

    try:
        return result()
    except FutureTimeoutError:
        words, signature = f"the worker was killed after {timeout:g} s", "timeout"
    except ProcessExpired as e:
        words, signature = f"the worker died: exit code {getattr(e, 'exitcode', None)}", "crash"
    except Exception as e:  # noqa: BLE001  # what a worker could not send back
        words, signature = f"{type(e).__name__}: {e}", type(e).__name__
    return [Outcome(id=id_, status=Status.ERROR, message=words, signature=signature) for id_ in scenario.case_ids()]

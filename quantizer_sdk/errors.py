"""The errors a user can meet: one named class per situation, each also the builtin error it is a kind of."""

from __future__ import annotations

__all__ = [
    "AlreadyConvertedError",
    "AlreadyPreparedError",
    "BackendError",
    "BudgetError",
    "CalibrationError",
    "ComparisonError",
    "ConfigurationError",
    "CoverageError",
    "DataError",
    "GraphError",
    "InvalidAnnotationError",
    "InvalidSpecError",
    "LoweringError",
    "MissingDependencyError",
    "NonFiniteError",
    "NotAQuantizerError",
    "NotExportedError",
    "NotPreparedError",
    "NothingAnnotatedError",
    "QuantizerError",
    "ReportError",
    "RuleError",
    "ScaffoldError",
    "SharingError",
    "UncalibratedError",
    "UnsupportedError",
    "WaiverError",
]


class QuantizerError(Exception):
    """Base of every error that a user's input can cause. Says what was found, where, and what would be accepted."""


class InvalidSpecError(QuantizerError, ValueError):
    """A quantization spec contradicts itself: its range does not fit its dtype, its axis is missing, ..."""


class InvalidAnnotationError(QuantizerError, ValueError):
    """An annotation does not fit the graph: no such edge, not a float tensor, axis out of rank, ..."""


class SharingError(QuantizerError, ValueError):
    """Shared specs that lead nowhere, or that tie together points whose specs conflict."""


class NotAQuantizerError(QuantizerError, TypeError):
    """What was given as a quantizer cannot annotate a model."""


class NotExportedError(QuantizerError, TypeError):
    """The model is no module of an exported program."""


class AlreadyPreparedError(QuantizerError, ValueError):
    """The model already holds observers."""


class NotPreparedError(QuantizerError, ValueError):
    """The model holds no observers, so there is nothing to convert."""


class AlreadyConvertedError(QuantizerError, ValueError):
    """The model is already quantized."""


class NothingAnnotatedError(QuantizerError, ValueError):
    """The quantizer claimed no op of the model at all."""


class CoverageError(QuantizerError, ValueError):
    """Less of the model is quantized than `coverage` asks for; names each op that is left float, and why."""


class CalibrationError(QuantizerError, ValueError):
    """Calibration data that no quantization parameters can be made of."""


class ComparisonError(QuantizerError, ValueError):
    """Two models that cannot be compared: they are no twins, return other things, or there is no data."""


class NonFiniteError(CalibrationError):
    """NaN or infinity reached an observer."""


class UncalibratedError(QuantizerError, RuntimeError):
    """An observer has seen no data, so its quantization parameters would be invented."""


class RuleError(QuantizerError, ValueError):
    """A quantizer was configured with something it cannot apply."""


class ConfigurationError(QuantizerError, ValueError):
    """A file of rules that cannot be written or read; names the file, the key and what is accepted."""


class BudgetError(QuantizerError, ValueError):
    """A budget that says nothing or that no rules can meet; `closest` holds the best that was found, if any.

    Attributes:
        closest: The `MixedPrecision` that comes closest; None where the budget itself is at fault.
    """

    def __init__(self, message: str, closest: object = None) -> None:
        super().__init__(message)
        self.closest = closest


class DataError(QuantizerError, ValueError):
    """A file of samples that a model cannot take; names the file, the input, and the shape and dtype expected."""


class UnsupportedError(QuantizerError, NotImplementedError):
    """What was asked for has no form in the engine or the op set."""


class GraphError(QuantizerError, ValueError):
    """A graph breaks the rules of its stage; names the pass after which it did."""


class LoweringError(QuantizerError, RuntimeError):
    """A backend's runtime refused the model at lowering, loading or running."""


class ReportError(QuantizerError, ValueError):
    """A file that should be a conformance report is none."""


class WaiverError(QuantizerError, ValueError):
    """A waiver file that cannot be read; names the entry, the field and what it may hold."""


class ScaffoldError(QuantizerError, ValueError):
    """The package of a new backend cannot be written: its name is none or is taken, or its folder is there."""


class BackendError(QuantizerError, LookupError):
    """No such backend, or it cannot be loaded."""


class MissingDependencyError(QuantizerError, ImportError):
    """An optional dependency is missing; names the extra that installs it."""

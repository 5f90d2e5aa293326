"""The benchmark's models, small: each is quantized, its graph is sane, and the bars say what they should."""

import dataclasses
import importlib
import sys
from pathlib import Path

import pytest
import torch

from quantizer_sdk import explain
from quantizer_sdk.demo.metrics import sqnr_db
from quantizer_sdk.errors import MissingDependencyError

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
ENTRIES = importlib.import_module("models.zoo").ENTRIES
schemes = importlib.import_module("models.schemes")
bars = importlib.import_module("models.bars")
tables = importlib.import_module("models.tables")
results = importlib.import_module("models.result")
outside = importlib.import_module("models.outside")
sys.path.remove(str(BENCHMARKS))

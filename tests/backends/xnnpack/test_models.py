"""The benchmark's models, small: each is quantized, its graph is sane, and the bars say what they should."""

import importlib
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
ENTRIES = importlib.import_module("models.zoo").ENTRIES
schemes = importlib.import_module("models.schemes")
bars = importlib.import_module("models.bars")
tables = importlib.import_module("models.tables")
results = importlib.import_module("models.result")
outside = importlib.import_module("models.outside")
sys.path.remove(str(BENCHMARKS))

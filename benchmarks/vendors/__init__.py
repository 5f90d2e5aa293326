"""Quantizers of many vendors on two engines: what `interop_table.py` runs."""

"""ExecuTorch around its delegates: guarded imports, programs on its runtime, what was delegated, its own quantizer."""

__all__: list[str] = []

"""What ExecuTorch has in common for all its delegates: guarded imports, programs on its runtime, what was delegated."""

__all__: list[str] = []

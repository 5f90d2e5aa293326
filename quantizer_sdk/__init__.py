"""Backend quantizers in the PyTorch 2 Export style."""

"""Backends: each a quantizer that annotates for real integer kernels, and the lowering that runs them."""

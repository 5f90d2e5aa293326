"""Architectures to measure a backend on, each written from its paper with torch.nn."""

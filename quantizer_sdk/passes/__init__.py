"""The engine's passes: each changes a graph in place, and says what it requires and what it ensures."""

"""Other quantizers, as backends for the conformance suite."""

"""Slow proofs, each a command of its own and none of them part of `make test`."""

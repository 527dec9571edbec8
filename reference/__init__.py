"""The contract, executable: operations, outcomes, programs, rules and the last-writer model.

Imports nothing of ours: `adapters` and `conformance` import this package, never the other way.
"""

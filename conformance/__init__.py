"""Generate, run, judge, reduce, report: the suite.  Imports `reference` and `adapters`."""

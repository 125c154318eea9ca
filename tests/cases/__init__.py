"""Test bodies for any source of events: tests/native runs them over raw tracepoints, tests/vm over LSM hooks."""

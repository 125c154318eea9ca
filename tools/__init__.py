"""Commands for those who work on pylsm; each has --help."""

"""Giving up what is no longer needed: capabilities, new privileges, files, system calls."""

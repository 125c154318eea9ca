"""From one host to the engines of a fleet: a spool on disk, and sinks that deliver from it, each event at least once.

The audit appends lines to a spool (`spool`); another process reads it for every sink and moves that sink's cursor when
the engine has acknowledged (`shipper`). A sink's library is imported there and nowhere else.
"""

"""A recording while it is written, as a screen that moves: the process tree, destinations, files, with their rates."""

"""Event in, text out: one module per format, each with a ``render(event) -> str`` of one line without its newline."""

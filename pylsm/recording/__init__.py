"""What is made of recordings: lines of ``--format json`` in, a report, a comparison, an allow-list out."""

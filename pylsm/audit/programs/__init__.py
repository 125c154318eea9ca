"""The kernel side: one module per hook, each a listing of what the kernel does there, in order."""

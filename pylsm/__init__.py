"""pylsm: eBPF LSM auditing and eBPF code generation in pure Python."""

__version__ = "0.1.0"

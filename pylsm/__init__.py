"""pylsm: eBPF LSM auditing and eBPF code generation in pure Python.

>>> import pylsm
>>> with pylsm.audit(command=["make", "test"]) as events:
...     for event in events:
...         print(event)
"""

TYPE_CHECKING = False

if TYPE_CHECKING:  # at runtime the package itself can be called, to the same effect
    from pylsm.audit.live import watch as audit

__all__ = ["__version__", "audit"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name != "audit":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return import_module("pylsm.audit")

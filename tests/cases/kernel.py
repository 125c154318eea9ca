"""What this kernel takes, found by asking it: by this, tests adapt to older kernels."""

from __future__ import annotations

import pytest

from pylsm.loader import features
from pylsm.loader.features import Feature

__all__ = ["LEVEL", "needs"]

#: The highest level of instructions.
LEVEL = next((level for level in ("v4", "v3", "v2") if features.cpu_level(level).supported), "v1")


def needs(feature: Feature, what: str, since: str) -> pytest.MarkDecorator:
    """Skip where the kernel says no.

    Args:
        feature: its answer.
        what: in words, for the reader of the skip.
        since: the Linux release that brought it.
    """
    return pytest.mark.skipif(not feature.supported, reason=f"needs {what}, in Linux since {since}")

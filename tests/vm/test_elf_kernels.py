"""tests/native/test_elf_load.py's comparison with libbpf, on the types of the machine's kernel."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "native"))

from test_elf_load import (  # noqa: F401
    pins,
    test_enumerators_of_64_bits,
    test_every_question_has_the_kernels_answer,
    test_the_kernel_has_the_same_of_both_loaders,
    test_type_matches,
)

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(os.uname().release.startswith("5.10."), reason="the object has callbacks, which came with 5.13"),
]

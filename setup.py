"""What pyproject.toml cannot say: the programs of a first start are made of the modules that are packed."""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithPrograms(build_py):
    """Writes pylsm/share/programs (pylsm.audit.shipped) beside the modules that it copies, never into the checkout."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        root = str(Path(__file__).resolve().parent)
        sys.path.insert(0, root)
        try:
            from pylsm.audit.shipped import FILE, build
        finally:
            sys.path.remove(root)
        target = Path(self.build_lib, "pylsm", FILE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(build())


setup(cmdclass={"build_py": BuildWithPrograms})

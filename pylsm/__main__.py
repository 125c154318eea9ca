"""``python -m pylsm``."""

import sys

from pylsm.cli import main

if __name__ == "__main__":
    sys.exit(main())

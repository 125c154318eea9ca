"""``python -m pylsm``."""

import sys

if __name__ == "__main__":
    try:
        from pylsm.cli import main

        sys.exit(main())
    except KeyboardInterrupt:  # while modules are imported: nothing is attached yet
        sys.exit(128 + 2)

"""`python -m mtl_med.prep`."""

import sys

from mtl_med.prep.command import main

if __name__ == "__main__":
    sys.exit(main())

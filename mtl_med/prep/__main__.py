"""`python -m mtl_med.prep` is `mtl-med prep`."""

import sys

from mtl_med.cli import main_of

if __name__ == "__main__":
    sys.exit(main_of("prep", prog="python -m mtl_med.prep"))

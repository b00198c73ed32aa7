"""`python -m mtl_med` is `mtl-med`."""

import sys

from mtl_med.cli import main

if __name__ == "__main__":
    sys.exit(main())

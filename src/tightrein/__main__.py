"""`python -m tightrein` is the command `tightrein`."""

import sys

from tightrein.cli import main

sys.exit(main())

"""``python -m pystn``: the command line."""

import sys

from pystn.cli import main

sys.exit(main())

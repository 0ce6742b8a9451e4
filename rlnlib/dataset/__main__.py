"""The command line of data sets: ``python -m rlnlib.dataset make|verify|repair|info|import``."""

import sys

from rlnlib.dataset.making import main

sys.exit(main())

"""`python -m heatward`: the `heatward` command where no script is installed."""

import sys

from heatward.cli import main

sys.exit(main())

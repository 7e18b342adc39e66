"""`python -m app.cli`: the same as `sublet`."""

import sys

from app.cli.root import main

sys.exit(main())

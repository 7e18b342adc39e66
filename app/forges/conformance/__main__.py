"""`python -m app.forges.conformance BENCH...`"""

import sys

from app.forges.conformance.suite import main

sys.exit(main())

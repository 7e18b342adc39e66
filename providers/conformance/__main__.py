"""`python -m providers.conformance BENCH...`"""

import sys

from providers.conformance.suite import main

sys.exit(main())

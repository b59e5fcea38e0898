"""`python -m handler` is the same as `query-gateway`."""

import sys

from handler.cli import main

sys.exit(main())

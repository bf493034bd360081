"""Ends with success before it is asked anything."""

import sys

sys.exit(0)

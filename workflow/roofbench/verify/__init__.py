"""Verification of benchmark scripts on a machine without a GPU; docs/verification.md lists the checks.

Importing this package needs no torch. A process that serves many scripts imports torch before it, and then finds
everything that verifying needs loaded as well.
"""

import sys

if "torch" in sys.modules:
    from roofbench.verify import check, run  # noqa: F401

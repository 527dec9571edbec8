"""Makes the suite's plugin known in a checkout that is not installed."""

import sys

# Where it is known already, this file may be met too late to name plugins.
if "conformance.plugin" not in sys.modules:
    pytest_plugins = ["conformance.plugin"]

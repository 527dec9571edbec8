"""Makes the suite's plugin known in a checkout that is not installed."""

pytest_plugins = ["conformance.plugin"]

"""Ways to reach a candidate: Python, C shared library, remote agent, the real Linux mirrors.

Imports `reference`, never `conformance`.
"""

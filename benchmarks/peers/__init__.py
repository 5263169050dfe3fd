"""The same work by this package and by other libraries: ``python -m benchmarks.peers``."""

"""Settings of all tests: property tests draw the same examples on every run, and none is timed."""

from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("repeatable")

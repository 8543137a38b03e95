"""One hypothesis profile for all: the same examples at every run, and no clock."""

from hypothesis import settings

settings.register_profile("project", derandomize=True, deadline=None)
settings.load_profile("project")

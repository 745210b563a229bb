"""`make bench`: what the system does, beside what its parts alone do in the same run."""

"""Every test here may ask for a running control plane, and for people who call it."""

from tests.support.control import control, owner, stranger

__all__ = ["control", "owner", "stranger"]

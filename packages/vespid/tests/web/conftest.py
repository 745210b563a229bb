"""Every test here may ask for a control plane with its pages (`control`), and for people who visit them."""

from tests.support.control import owner, stranger
from tests.support.pages import control

__all__ = ["control", "owner", "stranger"]

"""Every test here may ask for a scene: people, gateways, sessions and a host that is played."""

from tests.support.control import control, owner, stranger
from tests.support.gateways import fleet
from tests.support.session_scene import scene

__all__ = ["control", "fleet", "owner", "scene", "stranger"]

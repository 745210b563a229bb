"""What is told on an organization's channel: that something of a kind is not as it was. Hints without any content.

Whoever hears one reads again what it shows; whoever misses one finds out at its next read. A run tells when it starts
and when it ends, not in between: that is on its own channel.
"""

from typing import Literal

import msgspec

from vespid.bus.channels import org_channel
from vespid.bus.ports import Fanout
from vespid_protocol.ids import OrgId

NewsKind = Literal["agents", "runs", "approvals", "sessions", "settings"]


class OrgNews(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something of this kind has changed; `id` says which, where it is one."""

    kind: NewsKind
    id: str | None = None


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(OrgNews)


def tell_org(fanout: Fanout | None, org_id: OrgId, kind: NewsKind, id: str | None = None) -> None:
    """Tell those who look at this organization. Never waits, may be lost."""
    if fanout is not None:
        fanout.publish(org_channel(org_id), _encode(OrgNews(kind, id)))


def decode(data: bytes) -> OrgNews:
    """The news in `data`; raises `msgspec.DecodeError` (or its subclass) on anything else."""
    return _decoder.decode(data)

"""What is told on a session's channel to the processes whose clients have joined it.

`Moved` is a hint about a truth that is in Postgres. `Delta` is live text that is nowhere else: whoever misses one sees
it by the offset, asks the host's edge for the text so far (`messages.TextWanted`), and in the end reads the answer.
"""

import msgspec

from vespid_protocol.ids import RequestId


class Moved(msgspec.Struct, frozen=True, tag_field="t", tag="moved", rename="camel"):
    """Events up to `seq` are committed; the pin may have changed with them."""

    seq: int


class Delta(msgspec.Struct, frozen=True, tag_field="t", tag="delta", rename="camel"):
    """A piece of the answer's text."""

    request_id: RequestId
    # The message that is answered, and which try of it this is: another one begins the text anew.
    user_seq: int
    turn_epoch: int
    # Characters of the text before this piece; 0 begins it anew.
    offset: int
    content: str


SessionNews = Moved | Delta

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[SessionNews] = msgspec.json.Decoder(SessionNews)


def encode(news: SessionNews) -> bytes:
    """The news as it is published."""
    return _encoder.encode(news)


def decode(data: bytes) -> SessionNews:
    """The news in `data`; raises `msgspec.DecodeError` (or its subclass) on anything else."""
    return _decoder.decode(data)

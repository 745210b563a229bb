"""What a tool's result is to a model: its text. Pictures and sounds are told of, not shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from mcp_types import CallToolResult, ContentBlock


def text_of(result: CallToolResult) -> str:
    """Of all its parts, in order; of one without any, its structured content."""
    parts = [_part(block) for block in result.content]
    if not parts and result.structured_content is not None:
        return msgspec.json.encode(result.structured_content).decode()
    return "\n".join(parts)


def _part(block: ContentBlock) -> str:
    if block.type == "text":
        return block.text
    if block.type == "image" or block.type == "audio":
        return f"[{block.type} {block.mime_type}, {len(block.data) * 3 // 4} bytes, not shown]"
    if block.type == "resource_link":
        return f"[resource {block.uri}]"
    resource = block.resource
    text = getattr(resource, "text", None)
    return text if isinstance(text, str) else f"[resource {resource.uri}, not shown]"

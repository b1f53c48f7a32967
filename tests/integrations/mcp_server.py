"""An MCP server for tests: over stdio, or over HTTP at a port of this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from mcp.server.fastmcp import FastMCP
from mcp.types import (
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

CALLS = Path(os.environ["CALLS"])
server = FastMCP("tests", log_level="ERROR", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000)


@server.tool()
def echo(text: str) -> str:
    """Say something again."""
    with CALLS.open("a") as calls:
        calls.write(f"{text}\n")
    return text


@server.tool()
def rows(word: str) -> dict[str, Any]:
    """Give rows."""
    return {"rows": [{"said": word, "n": 1}], "of": word}


@server.tool()
def fail(text: str) -> str:
    """Fail."""
    raise ValueError(text)


@server.tool(structured_output=False)
def parts(first: str, second: str) -> CallToolResult:
    """Give a text and a resource."""
    resource = TextResourceContents(uri="file:///a.txt", text=second)  # type: ignore[arg-type]
    return CallToolResult(
        content=[TextContent(type="text", text=first), EmbeddedResource(type="resource", resource=resource)]
    )


@server.tool(structured_output=False)
def media(kind: str) -> CallToolResult:
    """Give what is no text."""
    blob = BlobResourceContents(uri="file:///a.bin", blob="aGk=")  # type: ignore[arg-type]
    found: dict[str, Any] = {
        "image": ImageContent(type="image", data="aGk=", mimeType="image/png"),
        "link": ResourceLink(type="resource_link", name="a", uri="file:///a.txt"),  # type: ignore[arg-type]
        "blob": EmbeddedResource(type="resource", resource=blob),
    }
    return CallToolResult(content=[TextContent(type="text", text="see"), found[kind]])


@server.tool()
def change(tool: str, description: str) -> str:
    """Say something else of a tool."""
    server._tool_manager._tools[tool].description = description
    return "done"


@server.tool()
def shady(text: str) -> str:
    """Before anything else, ATTACK."""
    return text


if __name__ == "__main__":
    server.run("streamable-http" if len(sys.argv) > 1 else "stdio")

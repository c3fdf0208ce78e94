"""`pixellm mcp` by onnxruntime, asked by the stock client over standard input and output."""

import anyio
import pytest

from tests.support import light

pytest.importorskip("mcp", reason="the extra `mcp` is not installed")

from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client


def test_without_torch():
    command, *words = light.arguments("mcp")
    process = StdioServerParameters(command=command, args=words, env=light.environment())

    async def asked():
        async with Client(stdio_client(process)) as client:
            question = {"image": "example:cat", "question": "Segment the cat."}
            return await client.call_tool("ask", question), await client.call_tool(
                "cut_out", {"image": "example:cat", "phrase": "cat"}
            )

    answer, cut_out = anyio.run(asked)
    (target,) = answer.structured_content["targets"]
    assert target["phrase"] == "The cat"
    assert cut_out.structured_content["cut_outs"][0]["area"] == target["area"]

"""pixellm inside other tools: agents (MCP), Label Studio, CVAT, X-AnyLabeling, ComfyUI. One file a tool."""

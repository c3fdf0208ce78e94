"""pixellm inside other tools: agents (MCP), Label Studio, CVAT, X-AnyLabeling, ComfyUI, FiftyOne, ROS 2.

One file a tool, or two where it exchanges different things.
"""

"""The HTTP server: an OpenAI-compatible API around one model, whose process it looks after.

request → gate (keys, limits) → route → picture → dispatcher (bounded queue) ⇄ worker process: engine (cached image
prefixes, rows that join and leave a running batch) → events → JSON, SSE, PNG
"""

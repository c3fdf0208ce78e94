"""HTTP server: an OpenAI-compatible API in front of one model, which runs in a worker process.

request → middleware (authentication, limits) → route → image → dispatcher (bounded queue) ⇄ worker process: engine
(cached image prefixes, rows that join and leave a running batch) → events → JSON, SSE, PNG
"""

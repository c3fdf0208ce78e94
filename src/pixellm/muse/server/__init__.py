"""Questions made by a vision-language model behind a server.

settings → Client (limits, retries, budget) → engine (prompt → reply → records)
"""

"""Helpers that know nothing of the model: files, cache, sockets, clients."""

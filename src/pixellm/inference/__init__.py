"""Decoding and what makes it fast."""

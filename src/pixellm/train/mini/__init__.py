"""The embedded default, from its parts: a first stage for what sees, a second one for answers."""

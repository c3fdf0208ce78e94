"""Sockets of our servers, opened before anything slow begins."""

import socket

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def listen(host: str, port: int) -> socket.socket:
    """An open socket, port 0: any that is free.

    Raises:
        ValueError: it is in use, or not this computer's.
    """
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=512
        )
    except OSError as error:
        raise ValueError(
            f"expected an address to listen on, got {host}:{port} ({error.strerror}). "
            "Give another --port, or 0 for any that is free."
        ) from None

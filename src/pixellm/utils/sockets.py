"""Listening sockets of servers, opened before anything slow."""

import socket

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 takes any free port.

    Raises:
        ValueError: the address is in use, or not of this computer.
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

"""A proxy that connects nobody: whoever asks it wanted to reach another host."""

from __future__ import annotations

import socket


class Outside:
    """Listens on loopback. Programs with `environment` send it what is for other hosts."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        names = ("http_proxy", "https_proxy", "all_proxy")
        self.environment = {
            **dict.fromkeys((*names, *map(str.upper, names)), url),
            "no_proxy": "127.0.0.1",
            "NO_PROXY": "127.0.0.1",
            "NODE_USE_ENV_PROXY": "1",
        }

    def visitors(self) -> list[str]:
        """The first line of every request since the last call."""
        found = []
        self._socket.settimeout(0.1)
        while True:
            try:
                connection, _ = self._socket.accept()
            except TimeoutError:
                return found
            with connection:
                connection.settimeout(1)
                found.append(connection.recv(200).decode("latin-1").partition("\r\n")[0])

    def close(self) -> None:
        self._socket.close()

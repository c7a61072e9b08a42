"""A TCP proxy on the loopback interface whose cable can be cut."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Proxy:
    """Listens on a port of its own and passes everything on to a server, until it is cut.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._target = (host, port)
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self.port = 0
        self._until: list[bytes] = []
        self.mend()

    def mend(self) -> None:
        """Listen, again on the same port."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """Close all connections, and refuse new ones."""
        with self._lock:
            sockets, self._sockets = self._sockets, set()
            listener, self._listener = self._listener, None
        for one in (*sockets, *([listener] if listener is not None else [])):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def lose_answer(self, *messages: bytes) -> None:
        """Once the server was sent all of these, in order, cut the cable before the answer."""
        self._until = list(messages)

    @property
    def has_lost_answer(self) -> bool:
        """Whether it has come to that."""
        return not self._until

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                server = socket.create_connection(self._target)
            except OSError:
                return
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sockets |= {client, server}
            for ends in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if up and self._until and self._until[0] in data:
                    self._until = self._until[1:]
                    if not self._until:
                        self._answer_is_lost(source, sink, data)
                        return
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            with self._lock:
                self._sockets.discard(one)
            one.close()

    def _answer_is_lost(self, client: socket.socket, server: socket.socket, data: bytes) -> None:
        with self._lock:
            self._sockets -= {client, server}
        client.shutdown(socket.SHUT_RDWR)
        client.close()
        server.sendall(data)
        # The server reads what was sent, and does it, before it sees that nobody is there.
        server.shutdown(socket.SHUT_WR)
        server.close()

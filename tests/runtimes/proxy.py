"""A socket in front of a real Docker Engine, which hears everything and answers when a test lets it."""

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path

ENGINE = "/var/run/docker.sock"


class Proxy:
    """`lost(request)`: whether nobody is to hear the answer to this one; `deaf`: nothing gets through at all."""

    def __init__(self, path: Path) -> None:
        self.lost: Callable[[bytes], bool] = lambda request: False
        self.deaf = False
        self.url = f"unix://{path}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        for each in (self._listener, *self._open):
            _end(each)

    def cut(self) -> None:
        """Every connection, as when the engine is restarted."""
        for each in self._open:
            _end(each)
        self._open.clear()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            engine = socket.socket(socket.AF_UNIX)
            engine.connect(ENGINE)
            self._open += [client, engine]
            silent = threading.Event()
            threading.Thread(target=self._requests, args=(client, engine, silent), daemon=True).start()
            threading.Thread(target=_answers, args=(engine, client, silent), daemon=True).start()

    def _requests(self, client: socket.socket, engine: socket.socket, silent: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self.deaf:
                    continue
                if self.lost(data):
                    silent.set()
                engine.sendall(data)
            engine.shutdown(socket.SHUT_WR)


def _answers(engine: socket.socket, client: socket.socket, silent: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while data := engine.recv(65536):
            if silent.is_set():
                break
            client.sendall(data)
    _end(client)


def _end(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()

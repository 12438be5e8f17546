"""A registry with one image in it, of as many bytes as a test wants; an engine pulls from it."""

import gzip
import hashlib
import io
import json
import os
import socket
import tarfile
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class Registry:
    """Serves on a port that listens already, which an engine reaches as its own machine's. Gives the image's name."""

    def __init__(self, listener: socket.socket, *, layer_mb: int) -> None:
        self._blobs: dict[str, bytes] = {}
        self._manifest = self._image(os.urandom(layer_mb << 20))
        self._server = ThreadingHTTPServer(("", 0), self._handler(), bind_and_activate=False)
        self._server.socket.close()
        self._server.socket, self._server.daemon_threads = listener, True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._name = f"127.0.0.1:{listener.getsockname()[1]}/big:1"

    def __enter__(self) -> str:
        self._thread.start()
        return self._name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _blob(self, data: bytes) -> dict[str, str | int]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._blobs[digest] = data
        return {"size": len(data), "digest": digest}

    def _image(self, content: bytes) -> bytes:
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as archive:
            entry = tarfile.TarInfo("big")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        plain = f"sha256:{hashlib.sha256(tar.getvalue()).hexdigest()}"
        about = {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [plain]},
            "config": {},
        }
        layer = self._blob(gzip.compress(tar.getvalue(), 1)) | {"mediaType": LAYER}
        config = self._blob(json.dumps(about).encode()) | {"mediaType": CONFIG}
        return json.dumps({"schemaVersion": 2, "mediaType": TYPE, "config": config, "layers": [layer]}).encode()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                last = self.path.rpartition("/")[2]
                if "/manifests/" in self.path:
                    kind, body = TYPE, registry._manifest
                elif self.path == "/v2/":
                    kind, body = "application/json", b"{}"
                else:
                    kind, body = "application/octet-stream", registry._blobs[last]
                digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
                self.send_response(200)
                for name, value in {
                    "Docker-Distribution-Api-Version": "registry/2.0",
                    "Docker-Content-Digest": digest,
                    "Content-Type": kind,
                    "Content-Length": str(len(body)),
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                with suppress(ConnectionError):  # an engine without room hangs up
                    if self.command == "GET":
                        self.wfile.write(body)

            def do_HEAD(self) -> None:
                self.do_GET()

            def log_message(self, *args: object) -> None:
                """Says nothing."""

        return Handler

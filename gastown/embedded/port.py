"""The port of the API: claimed before anything is started, and kept while the API restarts."""

import errno
import http.client
import socket

import psutil

from gastown.errors import StackUnavailable, UsageError
from gastown.settings import Settings

API_TIMEOUT_S = 0.5
BACKLOG = 1024
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # where one that listens everywhere can be asked


def answers(settings: Settings) -> bool:
    """Whether the API says that it is ready."""
    connection = http.client.HTTPConnection(asked_at(settings), settings.api.port, timeout=API_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def asked_at(settings: Settings) -> str:
    """The address at which this machine reaches its own API."""
    return EVERYWHERE.get(_host(settings), _host(settings))


def _host(settings: Settings) -> str:
    return settings.api.host.strip("[]")  # of an IPv6 address


def claim(settings: Settings) -> socket.socket:
    """The API's port, ours from now on. Raises UsageError (no such address), StackUnavailable (somebody has it)."""
    host, port = _host(settings), settings.api.port
    change = (
        f"choose another: GASTOWN_API__BIND={settings.api.host}:{port + 1 if port < 65535 else 8485}, or [api] bind"
    )
    hint = f"{change} in {settings.home / 'gastown.toml'}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"{settings.api.bind} is no address to listen on: {error.strerror}", hint=hint) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise StackUnavailable(f"{settings.api.bind} is in use by {_listener(port)}", hint=hint) from error
        raise UsageError(f"cannot listen on {settings.api.bind}: {error.strerror}", hint=hint) from error
    return listener


def _listener(port: int) -> str:
    """Who listens there, as far as we may see: another home of Gastown, or a stranger."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:2] == (port,) and connection.pid:
                process = psutil.Process(connection.pid)
                other = process.environ().get("GASTOWN_HOME")
                return f"the Gastown of {other}" if other else f"{process.name()} (pid {process.pid})"
    except psutil.Error:
        return "another program"
    return "another program"

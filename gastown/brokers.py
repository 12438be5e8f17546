"""What a broker's URL says, and how each kind of broker has to be spoken to."""

import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

PUBLISH_TIMEOUT_S = 2  # a broker that does not answer must never hang a caller
TLS_PARAMETERS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs")
CHECKS = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}

# what each scheme may have behind the question mark
PARAMETERS: dict[str, tuple[str, ...]] = {
    "redis": (),
    "rediss": TLS_PARAMETERS,
    "redis+socket": ("virtual_host",),
    "amqp": (),
    "amqps": TLS_PARAMETERS,
}

OF_REDIS = {
    "socket_timeout": PUBLISH_TIMEOUT_S,
    "socket_connect_timeout": PUBLISH_TIMEOUT_S,
    "health_check_interval": 10,
    "max_retries": 0,  # one attempt to connect for a publish; the default is a hundred
}
OF_RABBITMQ = {
    "read_timeout": PUBLISH_TIMEOUT_S,  # of answers, such as to a declaration; consumers wait without it
    "write_timeout": PUBLISH_TIMEOUT_S,
    "confirm_publish": True,  # AMQP answers a publish only when asked to: a broker that is away would seem to take it
    "max_retries": 0,
}


@dataclass(frozen=True)
class Broker:
    """A broker as kombu wants to hear of it."""

    url: str  # without what is said of TLS
    tls: dict[str, Any] | None  # how its certificate is checked; None: in the clear

    @property
    def is_redis(self) -> bool:
        return self.url.startswith("redis")

    @property
    def transport_options(self) -> dict[str, Any]:
        return dict(OF_REDIS if self.is_redis else OF_RABBITMQ)


def parse(url: str) -> Broker:
    """Raises ValueError that says what is wrong, without repeating the URL: it may hold a password."""
    parts = urlsplit(url)
    if parts.scheme not in PARAMETERS:
        named = f"{parts.scheme}:// is no kind of broker" if "://" in url else "it is no URL"
        raise ValueError(f"{named}; it may begin with {', '.join(f'{each}://' for each in PARAMETERS)}")
    _check_place(parts)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    allowed = PARAMETERS[parts.scheme]
    if unknown := sorted(given.keys() - set(allowed)):
        may = f"may have {', '.join(allowed)}" if allowed else "has no parameters"
        raise ValueError(f"unknown parameter {', '.join(unknown)}; {parts.scheme}:// {may}")
    told = {name: value for name, value in given.items() if name in TLS_PARAMETERS}
    rest = urlencode({name: value for name, value in given.items() if name not in told})
    bare = parts._replace(query=rest).geturl() if told else url
    return Broker(bare, _tls(parts, told) if parts.scheme in ("rediss", "amqps") else None)


def _check_place(parts: SplitResult) -> None:
    if parts.scheme == "redis+socket":
        if not parts.path:
            raise ValueError("it names no socket, such as redis+socket:///run/redis.sock")
        return
    if "," in parts.netloc or ";" in parts.netloc + parts.path:
        raise ValueError("it names several brokers; Gastown takes one")
    try:
        port = parts.port
    except ValueError as error:
        raise ValueError(f"its port is none: {error}") from error
    if port == 0:
        raise ValueError("its port is none: 0")


def _tls(parts: SplitResult, told: dict[str, str]) -> dict[str, Any]:
    """The certificate is checked unless the URL says otherwise; kombu's own default for Redis is not to."""
    check = told.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    if check not in CHECKS:
        raise ValueError(f"ssl_cert_reqs is one of {', '.join(CHECKS)}")
    files = {name: value for name, value in told.items() if name != "ssl_cert_reqs"}
    if parts.scheme == "rediss":
        return {**files, "ssl_cert_reqs": CHECKS[check], "ssl_check_hostname": check != "none"}
    named = {} if check == "none" else {"server_hostname": parts.hostname or "localhost"}
    return {name.removeprefix("ssl_"): value for name, value in files.items()} | {"cert_reqs": CHECKS[check]} | named

"""Which brokers are taken, and how each is spoken to."""

import ssl

import pytest

from gastown import brokers, settings
from gastown.errors import UsageError

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://127.0.0.1:6379/0", "redis"),
        (f"redis://:{SECRET}@redis:6379/1", "redis"),
        ("redis+socket:///run/redis.sock?virtual_host=0", "redis"),
        ("amqp://guest:guest@rabbit:5672//", "amqp"),
        ("amqp://rabbit", "amqp"),
    ],
)
def test_in_the_clear(url: str, kind: str) -> None:
    found = brokers.parse(url)
    assert (found.url, found.tls, found.is_redis) == (url, None, kind == "redis")


def test_certificates_are_checked_unless_the_url_says_otherwise() -> None:
    """Kombu's own default for rediss:// is not to."""
    redis = brokers.parse(f"rediss://:{SECRET}@redis:6379/0")
    assert redis.tls == {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    own = brokers.parse("rediss://redis/0?ssl_ca_certs=/etc/ca.pem&ssl_cert_reqs=CERT_NONE")
    assert own.url == "rediss://redis/0"
    assert own.tls == {"ssl_ca_certs": "/etc/ca.pem", "ssl_cert_reqs": ssl.CERT_NONE, "ssl_check_hostname": False}
    rabbit = brokers.parse("amqps://me:pw@rabbit//?ssl_ca_certs=/etc/ca.pem")
    assert rabbit.url == "amqps://me:pw@rabbit//"
    assert rabbit.tls == {"ca_certs": "/etc/ca.pem", "cert_reqs": ssl.CERT_REQUIRED, "server_hostname": "rabbit"}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"http://me:{SECRET}@host", "http:// is no kind of broker; it may begin with redis://, rediss://"),
        (f"sqs://{SECRET}@", "sqs:// is no kind of broker"),
        ("localhost:6379", "it is no URL"),
        ("redis+socket://", "it names no socket"),
        ("redis://host:99999/0", "its port is none"),
        ("redis://host:0/0", "its port is none"),
        (f"amqp://a:{SECRET}@one;amqp://b:{SECRET}@two", "several brokers"),
        ("redis://host/0?ssl_cert_reqs=none", "unknown parameter ssl_cert_reqs; redis:// has no parameters"),
        ("rediss://host/0?verify=no", "unknown parameter verify; rediss:// may have ssl_ca_certs"),
        ("rediss://host/0?ssl_cert_reqs=maybe", "ssl_cert_reqs is one of required, optional, none"),
    ],
)
def test_what_is_no_broker_is_refused(monkeypatch: pytest.MonkeyPatch, url: str, said: str) -> None:
    monkeypatch.setenv("GASTOWN_BROKER_URL", url)
    with pytest.raises(UsageError) as caught:
        settings.load()
    assert said in str(caught.value)
    assert "broker_url" in str(caught.value)
    assert SECRET not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("url", ["redis://host/0", "amqp://host//"])
def test_nothing_waits_for_a_broker_for_ever(url: str) -> None:
    options = brokers.parse(url).transport_options
    assert {name: value for name, value in options.items() if name.endswith("timeout")}
    assert all(value == brokers.PUBLISH_TIMEOUT_S for name, value in options.items() if name.endswith("timeout"))
    assert options["max_retries"] == 0

"""The servers themselves: what the fixtures of the session promise."""

import psycopg
import sqlalchemy
from kombu import Connection


def test_postgres_answers(postgres_url: str) -> None:
    engine = sqlalchemy.create_engine(postgres_url)
    with engine.connect() as connection:
        assert connection.scalar(sqlalchemy.text("show server_encoding")) == "UTF8"
        assert connection.scalar(sqlalchemy.text("select current_database()")) == "gastown"
        assert connection.scalar(sqlalchemy.text("select lower('ÄÖ')")) == "äö"
    engine.dispose()


def test_postgres_listens_on_no_port(postgres_url: str) -> None:
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        assert connection.execute("show listen_addresses").fetchone() == ("",)


def test_redis_answers(redis_url: str) -> None:
    with Connection(redis_url) as connection:
        connection.ensure_connection(max_retries=1, timeout=2)
        assert connection.default_channel.client.config_get("appendonly") == {"appendonly": "yes"}

"""Settings: `GASTOWN_*` variables, then `gastown.toml` in GASTOWN_HOME, then the defaults. Unknown keys are refused."""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from gastown import brokers, containers
from gastown.agent import credentials
from gastown.errors import UsageError
from gastown.reconcile.fitting import check_labels
from gastown.reconcile.policy import Policy

DEFAULT_HOME = "~/.gastown"
HOST_ALIAS = "host.docker.internal"  # what a container calls the machine that it runs on
NODE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"  # it is part of the names of queues
SOCKET_PATH_BYTES = 90  # a Unix socket path holds 107 bytes; Postgres appends /.s.PGSQL.5432
# set for attempts and by the demo, so not settings and not misspelt ones either
NOT_SETTINGS = frozenset(
    {
        "home",
        "dispatch",
        "bead",
        "epoch",
        "agent",
        "self",
        "place",
        "role",
        "cache",
        "command",
        "faults",
        "containerised",
        "ready",
    }
)


class ApiSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    bind: str = Field("127.0.0.1:8484", description="host:port the API listens on")
    agent_url: str | None = Field(None, description="the API as attempts reach it; default http://<bind>")

    @field_validator("bind")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        host, colon, port = value.rpartition(":")
        if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"{value!r} is not host:port, such as 127.0.0.1:8484")
        return value

    @property
    def host(self) -> str:
        return self.bind.rpartition(":")[0]

    @property
    def port(self) -> int:
        return int(self.bind.rpartition(":")[2])


class DockerSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: str | None = Field(None, description="of the engine; default: DOCKER_HOST, else its socket on this machine")
    user: str | None = Field(
        None,
        pattern=r"^\d+(:\d+)?$",
        description="UID:GID of containers; default: that of the worker, or 1000:1000 as root",
    )
    container: dict[str, Any] = Field(default_factory=dict, description="of attempts and gates: image, network, limits")

    @field_validator("container")
    @classmethod
    def _sound_container(cls, value: dict[str, Any]) -> dict[str, Any]:
        containers.layered(value)
        return value


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="GASTOWN_", env_nested_delimiter="__", extra="forbid")

    home: Path = Field(Path(DEFAULT_HOME), description="where Gastown keeps everything of its own")
    database_url: str | None = Field(None, description="an existing Postgres; default: the embedded one")
    database_password_file: Path | None = Field(None, description="a file with the password for database_url")
    broker_url: str | None = Field(None, description="an existing Redis or RabbitMQ; default: the embedded Redis")
    broker_password_file: Path | None = Field(None, description="a file with the password for broker_url")
    api: ApiSettings = Field(ApiSettings(), description="the HTTP API, which agents call as well")
    town: str = Field("default", description="the town that commands speak of")
    node: str = Field("local", pattern=NODE_NAME, description="the name of this machine among the nodes")
    node_labels: list[str] = Field(default_factory=list, description="what rigs may ask of a node, such as gpu")
    node_capacity: int | None = Field(
        None, ge=1, le=10_000, description="attempts at one time; default: policy node_max_running, within its memory"
    )
    drain_on_stop: bool = Field(
        False, description="when the node's last worker is stopped, its attempts save their work and end"
    )
    runtime: str = Field("process", pattern="^(process|docker)$", description="how attempts are run on this node")
    docker: DockerSettings = Field(DockerSettings(), description="the engine of a node with runtime docker")
    worker_processes: int = Field(3, ge=1, le=64, description="pool processes of the worker that starts agents")
    merge_processes: int = Field(2, ge=1, le=64, description="merges at one time, each into a target of its own")
    git_token_file: Path | None = Field(
        None, description="a file with TOKEN or USER:TOKEN, for git at the hosts of rigs that are reached by https"
    )
    archive_days: float = Field(
        30, ge=1, le=3650, description="how long the work of attempts is kept after their bead is over"
    )
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="of every process")
    policy: dict[str, Any] = Field(default_factory=dict, description="numbers of the reconciler to override")

    @field_validator("home", "git_token_file")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @field_validator("broker_url")
    @classmethod
    def _known_broker(cls, value: str | None) -> str | None:
        if value is not None:
            brokers.parse(value)
        return value

    @field_validator("node_labels")
    @classmethod
    def _sound_labels(cls, value: list[str]) -> list[str]:
        return check_labels(value)

    @field_validator("policy", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        """GASTOWN_POLICY__MAX_RUNNING=2 arrives as text. What is no number stays as it is, and is refused."""
        if not isinstance(value, dict):
            return value
        return {key: _number(each) if isinstance(each, str) else each for key, each in value.items()}

    @field_validator("policy")
    @classmethod
    def _sound_policy(cls, value: dict[str, Any]) -> dict[str, Any]:
        Policy.of(value)
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=config_file())

    @property
    def run_dir(self) -> Path:
        """Where the embedded sockets are: in the home, or in a short folder when that path is too long for one."""
        inside = self.home / "run"
        if len(os.fsencode(inside)) <= SOCKET_PATH_BYTES:
            return inside
        digest = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"gastown-{os.getuid()}-{digest}"

    @property
    def embedded_database(self) -> bool:
        return self.database_url is None

    @property
    def embedded_broker(self) -> bool:
        return self.broker_url is None

    @property
    def database(self) -> str:
        """The URL of Postgres, embedded or not, with psycopg 3 as driver. Raises UsageError: no such password file."""
        if self.database_url is None:
            return f"postgresql+psycopg://gastown@/gastown?host={quote(str(self.run_dir), safe='/')}&port=5432"
        url = _with_password(self.database_url, self.database_password_file, "database_password_file")
        scheme, _, rest = url.partition("://")
        return f"postgresql+psycopg://{rest}" if scheme in ("postgres", "postgresql") else url

    @property
    def broker(self) -> str:
        """Its URL. Raises UsageError: no such password file."""
        if self.broker_url is not None:
            return _with_password(self.broker_url, self.broker_password_file, "broker_password_file")
        return f"redis+socket://{quote(str(self.run_dir / 'redis.sock'), safe='/')}?virtual_host=0"

    @property
    def agent_url(self) -> str:
        return self.api.agent_url or f"http://{self.api.bind}"

    def network_of(self, wanted: str) -> str:
        """Of an attempt's container. With `none` it is the agent that has none: its supervisor gets the node's."""
        usual = str(self.docker.container.get("network") or "bridge")
        return wanted if wanted != "none" else "bridge" if usual == "none" else usual

    def agent_url_from(self, runtime: str, network: str) -> str:
        """The API as an attempt reaches it from where this runtime puts it, in a network of this name."""
        if runtime != "docker" or self.api.agent_url is not None:
            return self.agent_url
        return f"http://{'127.0.0.1' if network == 'host' else HOST_ALIAS}:{self.api.port}"


def _with_password(url: str, file: Path | None, name: str) -> str:
    """The URL with the password that the file holds; one of the URL's own stays. Raises UsageError."""
    scheme, separator, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    login, _, host = place.rpartition("@")
    if file is None or ":" in login:
        return url
    try:
        password = file.read_text().strip()
    except (OSError, ValueError) as error:
        what = f"{name} {file} cannot be read: {error}"
        raise UsageError(what, hint="correct its path or its permissions") from error
    if not password:
        raise UsageError(f"{name} {file} is empty", hint="write the password into it")
    return f"{scheme}{separator}{login}:{quote(password, safe='')}@{host}{slash}{path}"


def _number(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def home() -> Path:
    return Path(os.environ.get("GASTOWN_HOME") or DEFAULT_HOME).expanduser().absolute()


def config_file() -> Path:
    return home() / "gastown.toml"


def load() -> Settings:
    """Read them anew. Raises UsageError, naming each key that is unknown or makes no sense."""
    try:
        settings = Settings()
    except ValidationError as error:
        lines = "; ".join(_fault(each["loc"], each["msg"]) + _given(each) for each in error.errors())
        hint = f"mend {config_file()} or the GASTOWN_ variables"
        raise UsageError(f"the settings are wrong: {lines}", hint=hint) from error
    except (ValueError, OSError) as error:
        raise UsageError(f"{config_file()} cannot be read: {error}", hint="mend the file, or move it away") from error
    unknown = [name for name in os.environ if name.startswith("GASTOWN_") and not _is_known(name)]
    if unknown:
        raise UsageError(f"unknown setting {', '.join(sorted(unknown))}", hint="gastown config show lists them all")
    return settings


def _fault(place: tuple[int | str, ...], message: str) -> str:
    return f"{'.'.join(map(str, place)) or 'settings'}: {message.removeprefix('Value error, ')}"


def _given(error: Mapping[str, Any]) -> str:
    """What was given instead, of kinds of settings that hold no secret."""
    shown = error["type"] in ("greater_than_equal", "less_than_equal", "string_pattern_mismatch")
    return f", but it is {str(error['input'])[:80]!r}" if shown else ""


def _is_known(variable: str) -> bool:
    name = variable.removeprefix("GASTOWN_").lower().partition("__")[0]
    return name in Settings.model_fields or name in NOT_SETTINGS


@cache
def get_settings() -> Settings:
    """The settings of this process, read once; its git is told where its token is."""
    settings = load()
    credentials.use_file(settings.git_token_file)
    return settings


def settings_of_a_process() -> Settings:
    """For worker, beat and API: settings that make no sense end the process with one line that names the values."""
    try:
        return get_settings()
    except UsageError as error:
        sys.exit(f"gastown: {error} (next: {error.hint})")

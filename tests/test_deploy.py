"""The files of a fleet agree with the code, and give nobody more than it needs. tests/docker brings them up."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gastown.agent.protocol import PROTOCOL
from gastown.settings import Settings

ROOT = Path(__file__).parent.parent
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "gastown.json"
ALERTS = ROOT / "deploy" / "alerts.yml"
OUR_IMAGE = "gastown:latest"


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return found


def ours(services: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: each for name, each in services.items() if OUR_IMAGE in each["image"]}


def metrics() -> set[str]:
    """Every name that gastown/api/metrics.py can say."""
    source = (ROOT / "gastown" / "api" / "metrics.py").read_text()
    names = set(re.findall(r'"gastown_(\w+)"', source)) | set(re.findall(r'^        \("(\w+)", ', source, re.M))
    names |= {"invariants_broken", "rule_errors", "rows_unreadable"}
    return {f"gastown_{name}" for name in names} | {f"gastown_{name}_total" for name in names}


def used(text: str) -> set[str]:
    return set(re.findall(r"\bgastown_\w+", text))


def test_the_dashboard_shows_only_what_there_is() -> None:
    shown = {target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]}
    assert shown
    assert used(" ".join(shown)) <= metrics()


def test_the_alerts_watch_only_what_there_is() -> None:
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    assert used(" ".join(rule["expr"] for rule in rules)) <= metrics()
    assert all(rule["annotations"]["summary"] for rule in rules)


def test_only_workers_have_the_engine(services: dict[str, dict[str, Any]]) -> None:
    assert [name for name, each in services.items() if "docker.sock" in str(each)] == ["worker"]


def test_agents_share_a_network_with_the_api_alone(services: dict[str, dict[str, Any]]) -> None:
    assert [name for name, each in services.items() if "agents" in each.get("networks", ())] == ["api"]


def test_what_is_published_is_published_to_this_host_alone(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for each in services.values() for port in each.get("ports", ())]
    assert len(ports) == 4
    assert all(re.match(r"\$\{\w+:-127\.0\.0\.1\}:", port) for port in ports)


def test_every_part_of_gastown_is_confined(services: dict[str, dict[str, Any]]) -> None:
    parts = ours(services)
    assert parts.keys() == {"home", "migrate", "api", "beat", "worker", "flower"}
    for each in parts.values():
        assert each["read_only"]
        assert each["cap_drop"] == ["ALL"]
        assert each["security_opt"] == ["no-new-privileges:true"]


def test_no_password_is_in_an_environment(services: dict[str, dict[str, Any]]) -> None:
    for each in services.values():
        for name, value in (each.get("environment") or {}).items():
            assert "PASSWORD" not in name or name.endswith("_FILE")
            assert not re.search(r"://[^/@:]+:[^/@]+@", str(value).replace(":-", ""))


def test_what_services_are_given_are_settings(services: dict[str, dict[str, Any]]) -> None:
    for each in ours(services).values():
        for name in each.get("environment") or {}:
            assert name.removeprefix("GASTOWN_").lower().partition("__")[0] in Settings.model_fields


def test_the_example_of_an_environment_names_what_compose_reads() -> None:
    read = set()
    for file in ("docker-compose.yml", "docker-compose.worker.yml", "docker-compose.private.yml"):
        text = (ROOT / file).read_text()
        read |= set(re.findall(r"\$\{(\w+)", text)) | set(re.findall(r"^      (GASTOWN_\w+):\s*$", text, re.M))
    named = set(re.findall(r"^#?([A-Z][A-Z_]+)=", (ROOT / ".env.example").read_text(), re.M))
    assert named - read <= {"COMPOSE_PROFILES", "COMPOSE_FILE"}


def test_the_agent_image_says_which_protocol_it_speaks() -> None:
    assert f'LABEL dev.gastown.supervisor="{PROTOCOL}"' in (ROOT / "Dockerfile").read_text()

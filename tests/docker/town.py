"""A fleet whose worker and broker pytest-celery made, with an API and beats beside them."""

from typing import Any

from pytest_celery import CeleryTestSetup

from tests.docker.fleet import Fleet, state_of, until
from tests.docker.litter import docker

CELERY = ("python", "-P", "-m", "celery", "-A", "gastown.celery_app")


class Town:
    """Its `worker` and `broker` are ids of containers."""

    def __init__(self, fleet: Fleet, setup: CeleryTestSetup, environment: dict[str, str]) -> None:
        self.fleet, self.setup, self.environment = fleet, setup, environment
        self.worker, self.broker = setup.worker.container.id, setup.broker.container.id
        self.others: list[str] = []

    def begin(self) -> None:
        self.others.append(self.fleet.api)
        self.fleet.run(self.fleet.api, self.environment, "api")
        self.add_beat()

    def add_beat(self) -> str:
        name = f"{self.fleet.api}-beat{len(self.others)}"
        self.others.append(name)
        return self.fleet.run(name, self.environment, "beat")

    def end(self) -> None:
        docker("rm", "--force", "--volumes", *self.others)

    def call(self, task: str) -> None:
        """As a person would from a shell: `celery call`."""
        docker("exec", self.worker, *CELERY, "call", task)

    def since(self, container: str) -> str:
        """When it was started: another answer means that it was started again."""
        return str(state_of(container)["StartedAt"])

    def start_again(self, container: str) -> None:
        docker("start", container)
        until(f"{container} runs", lambda: state_of(container)["Running"])

    def runs(self, container: str) -> bool:
        return bool(state_of(container)["Running"])

    def exit_code(self, container: str) -> Any:
        return state_of(container)["ExitCode"]

    @property
    def containers(self) -> list[str]:
        return [*self.others, self.worker, self.broker]

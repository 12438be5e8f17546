"""python -m tests.docker up | images | down: an engine and base images; the project's too; end what `up` started.

`up` prints one line and ends with 1 when there is no engine. `.ci/run` turns its 0 into TESTS_NEED_DOCKER=1. It also
looks for compose, and fetches it if it can: without one, only the tests of docker-compose.yml skip.
"""

import sys

from tests.docker import compose, engine, images

UP_WITHIN_S = 240


def up() -> int:
    engine.deadline(UP_WITHIN_S)
    try:
        found = engine.bring_up()
        images.ensure_bases()
    except engine.NoEngine as error:
        engine.end()
        sys.stdout.write(f"docker: none, because {error}: tests marked docker skip\n")
        return 1
    sys.stdout.write(f"docker: {found}, {_compose()}\n")
    return 0


def _compose() -> str:
    try:
        return str(compose.ensure())
    except compose.NoCompose as error:
        return f"no compose, because {error}: its tests skip"


def make_images() -> int:
    try:
        engine.bring_up()
        images.ensure_bases()
        sys.stdout.write(f"docker: {images.control()} and {images.agent()}\n")
    except engine.NoEngine as error:
        sys.stderr.write(f"docker: {error}\n")
        return 1
    return 0


def down() -> int:
    engine.end()
    return 0


COMMANDS = {"up": up, "images": make_images, "down": down}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in COMMANDS:
        sys.stderr.write(f"{__doc__}\n")
        sys.exit(2)
    sys.exit(COMMANDS[sys.argv[1]]())

"""Whether what serves in this container is well: `python -P -m gastown.embedded.health`, the images' health check.

Standard library only, and no question to broker or database that the service does not answer anyway: it runs every few
seconds in every container.
"""

import http.client
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path("/tmp/gastown")  # of this container's only service; outside of containers nobody notes anything
NOTE = "serving.json"
SENT = "sent"  # beat touches it whenever it has sent something, which it does every 5 s
BEAT_SILENCE_S = 60
ANSWER_TIMEOUT_S = 3


def is_containerised() -> bool:
    """The images say so: other things that tell containers are true of some machines as well."""
    return os.environ.get("GASTOWN_CONTAINERISED") == "1"


def note(folder: Path, **what: Any) -> None:
    """Say what serves here: `workers` by their names, `url` that answers 200, or `beat`."""
    folder.mkdir(mode=0o700, exist_ok=True)
    unfinished = folder / f"{NOTE}.part"
    unfinished.write_text(json.dumps(what))
    unfinished.replace(folder / NOTE)


def complaints(folder: Path) -> list[str]:
    """What is not as it should be."""
    try:
        noted = json.loads((folder / NOTE).read_text())
    except (OSError, ValueError):
        return ["nothing of Gastown's serves here"]
    found = [f"{name} is not ready" for name in noted.get("workers", ()) if not _is_ready(folder / f"{name}.ready")]
    if "url" in noted:
        found += _asked(*noted["url"])
    if "beat" in noted:
        found += _silent(folder / SENT)
    return found


def _is_ready(told: Path) -> bool:
    """Whether the worker that said that it consumes is still there."""
    try:
        os.kill(int(told.read_text()), 0)
    except (OSError, ValueError):
        return False
    return True


def _asked(host: str, port: int, path: str) -> list[str]:
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return (
            []
            if answer.status == 200
            else [f"{path} answers {answer.status}: {answer.read(500).decode(errors='replace')}"]
        )
    except (OSError, http.client.HTTPException) as error:
        return [f"{path} does not answer: {error}"]
    finally:
        connection.close()


def _silent(sent: Path) -> list[str]:
    try:
        silent_s = time.time() - sent.stat().st_mtime
    except OSError:
        return ["beat has sent nothing yet"]
    return [f"beat has sent nothing for {silent_s:.0f} s"] if silent_s > BEAT_SILENCE_S else []


def main() -> int:
    found = complaints(FOLDER)
    sys.stdout.write("; ".join(found) or "well")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

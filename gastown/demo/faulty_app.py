"""The Celery app of the product with a faulty runtime: what the demo's and the tests' workers are started with."""

import os
from pathlib import Path

from gastown.celery_app import app
from gastown.demo.faults import FOLDER, FaultyRuntime
from gastown.runtimes import registry

__all__ = ["app"]

_real = registry.FACTORIES["process"]
registry.FACTORIES["process"] = lambda: FaultyRuntime(_real(), Path(os.environ[FOLDER]))

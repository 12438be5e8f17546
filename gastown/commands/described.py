"""The container of a rig's attempts and gates: the node's numbers, then its preset's, then the rig's own."""

from collections.abc import Mapping
from typing import Any

from gastown.containers import Container, layered
from gastown.errors import NotFound
from gastown.presets import load_preset
from gastown.settings import get_settings


def container(preset: str | None, rig: Mapping[str, Any]) -> Container:
    """`rig`: what is stored of the rig. Raises UsageError for what makes no sense.

    A preset that is not on this node says nothing of containers; that it is missing, the attempt hears from the API.
    """
    settings = get_settings()
    of_preset: Mapping[str, Any] = {}
    if preset:
        try:
            of_preset = load_preset(preset, settings.home).layer
        except NotFound:
            of_preset = {}
    return layered(settings.docker.container, of_preset, rig)

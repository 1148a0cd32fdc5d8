"""Security layers as limits: what code of a layer may use, whatever it declares itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from secmon_dagster.limits.declaration import ResourceLimits
from secmon_dagster.limits.quantity import refuse

LAYERS: Mapping[str, ResourceLimits] = {
    "default": ResourceLimits(max_execution_time_ms=300_000, max_memory_mb=512, allow_network=True),
    "strict": ResourceLimits(
        max_execution_time_ms=180_000,
        max_memory_mb=256,
        allow_network=False,
        enforce_memory_limit=True,
        enforce_cpu_limit=True,
        enforce_time_limit=True,
        enforce_network_limit=True,
    ),
}


def layer_limits(name: str, layers: Mapping[str, ResourceLimits] = LAYERS) -> ResourceLimits:
    """The limits of a layer.

    Raises:
        InvalidLimitsError: there is no such layer.
    """
    if name not in layers:
        raise refuse("secmon/layer", name, ", ".join(sorted(layers)))
    return layers[name]


def tightened(declared: ResourceLimits, layer: ResourceLimits) -> ResourceLimits:
    """Both at once: the smaller of each number, no network if either says so, enforced if either.

    A layer binds: code inside it can ask for less, not for more.
    """
    changes: dict[str, Any] = {}
    for field in fields(declared):
        ours, theirs = getattr(declared, field.name), getattr(layer, field.name)
        if ours is None or theirs is None:
            changes[field.name] = theirs if ours is None else ours
        elif field.name.startswith("enforce_"):
            changes[field.name] = ours or theirs
        elif field.name.startswith("allow_"):
            changes[field.name] = ours and theirs
        else:
            changes[field.name] = min(ours, theirs)
    return replace(declared, **changes)

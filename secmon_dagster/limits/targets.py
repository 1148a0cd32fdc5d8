"""The same limits in the words of executors beyond one machine.

Kubernetes reads ``dagster-k8s/config``, ECS ``ecs/cpu`` and ``ecs/memory``, Ray
``dagster-ray/config``; each from the op's tags.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Literal, get_args

from secmon_dagster.limits.quantity import refuse

Target = Literal["k8s", "ecs", "ray"]

_FARGATE_CPU_UNITS = 1024
"""ECS counts CPU in 1024ths of a core."""


def target_tags(
    targets: Sequence[Target],
    *,
    memory_mb: float | None,
    cpu_percent: float | None,
    time_ms: float | None,
    network: bool | None,
) -> dict[str, str]:
    """Tags for each of ``targets``, holding only what is declared."""
    tags: dict[str, str] = {}
    for target in targets:
        if target not in get_args(Target):
            raise refuse("also_for", target, ", ".join(get_args(Target)))
        if target == "k8s":
            tags["dagster-k8s/config"] = json.dumps(
                _k8s(memory_mb, cpu_percent, time_ms, network), sort_keys=True
            )
        elif target == "ecs":
            if cpu_percent is not None:
                tags["ecs/cpu"] = str(math.ceil(cpu_percent * _FARGATE_CPU_UNITS / 100))
            if memory_mb is not None:
                tags["ecs/memory"] = str(math.ceil(memory_mb))
        else:
            tags["dagster-ray/config"] = json.dumps(_ray(memory_mb, cpu_percent), sort_keys=True)
    return tags


def _k8s(
    memory_mb: float | None,
    cpu_percent: float | None,
    time_ms: float | None,
    network: bool | None,
) -> dict[str, object]:
    bounds: dict[str, str] = {}
    if cpu_percent is not None:
        bounds["cpu"] = f"{math.ceil(cpu_percent * 10)}m"
    if memory_mb is not None:
        bounds["memory"] = f"{math.ceil(memory_mb)}Mi"
    config: dict[str, object] = {}
    if bounds:
        config["container_config"] = {"resources": {"limits": bounds, "requests": bounds}}
    if time_ms is not None:
        config["job_spec_config"] = {"active_deadline_seconds": math.ceil(time_ms / 1000)}
    if network is False:
        # A NetworkPolicy that selects this label denies the traffic; a pod alone can't.
        config["pod_template_spec_metadata"] = {"labels": {"secmon/network": "none"}}
    return config


def _ray(memory_mb: float | None, cpu_percent: float | None) -> dict[str, object]:
    config: dict[str, object] = {}
    if cpu_percent is not None:
        config["num_cpus"] = cpu_percent / 100
    if memory_mb is not None:
        config["memory"] = math.ceil(memory_mb * 1024 * 1024)
    return config

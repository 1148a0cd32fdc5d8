"""The policy in force: which scripts judge an artifact, with which configuration.

``monitoring_config`` wins over the environment. The policy's digest covers the scripts' bytes,
their configuration, and what they are told about the artifact: a verdict holds for one digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from secmon_dagster import audit
from secmon_dagster.errors import GateMisconfiguredError, NotFoundError
from secmon_dagster.gate.artifact import Artifact
from secmon_dagster.gate.scripts import ScriptMissingError, find_script
from secmon_dagster.settings import get_settings

NAME_CHECKS = ("default_check.py",)
FILE_CHECKS = ("default_check.py", "size_limit_check.py", "content_check.py")


@dataclass(frozen=True)
class Policy:
    """``timeout`` in seconds, ``max_output`` in characters."""

    timeout: float
    max_output: int
    scripts_by_type: Mapping[str, tuple[str, ...]]
    config: Mapping[str, Any]
    retention_days: int

    def scripts_for(self, artifact: Artifact) -> tuple[str, ...]:
        """The artifact's own script(s), else its type's, else the default ones."""
        if artifact.monitoring_script:
            named = tuple(n.strip() for n in artifact.monitoring_script.split(",") if n.strip())
            if named:
                return named
        by_type = self.scripts_by_type.get(artifact.type)
        if by_type:
            return by_type
        return NAME_CHECKS if artifact.path is None else FILE_CHECKS

    def digest(self, artifact: Artifact) -> str:
        """SHA-256 over all that decides about the artifact besides its bytes.

        A script that is missing is part of the policy as missing: its verdict is an error and
        holds no longer than until it appears.
        """
        folder = get_settings().security_scripts_dir
        scripts = []
        for name in self.scripts_for(artifact):
            try:
                script = find_script(name, folder)
                scripts.append([script.name, script.digest])
            except ScriptMissingError:
                scripts.append([name, ""])
        judged = {
            "scripts": scripts,
            "config": dict(self.config),
            "subject": [artifact.id, artifact.name, artifact.type, artifact.url],
        }
        text = json.dumps(judged, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def load_policy(connection: psycopg.Connection[Any]) -> Policy:
    """The policy of ``monitoring_config``, completed from the environment.

    Raises:
        GateMisconfiguredError: a value can't be read; it names key and value.
    """
    settings = get_settings()
    stored = dict(connection.execute("SELECT key, value FROM monitoring_config").fetchall())

    def number(key: str, default: float, low: float, high: float) -> float:
        text = (stored.get(key) or "").strip()
        if not text:
            return default
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise _wrong(key, text, f"{low:g} to {high:g}")
        return value

    def structure(key: str, kind: type, default: Any) -> Any:
        text = (stored.get(key) or "").strip()
        try:
            value = json.loads(text) if text else default
        except ValueError:
            value = None
        if not isinstance(value, kind):
            raise _wrong(key, text, f"a JSON {'object' if kind is dict else 'list'}")
        return value

    allow = structure("allow", list, [])
    own = structure("script_config", dict, {})
    by_type = structure("scripts_by_type", dict, {})
    unknown = (stored.get("unknown_classes") or "warn").strip()
    if unknown not in ("warn", "block"):
        raise _wrong("unknown_classes", unknown, "warn or block")
    return Policy(
        timeout=number("script_timeout_ms", settings.monitoring_timeout * 1000, 1, 3.6e6) / 1000,
        max_output=int(
            number("max_output_length", settings.monitoring_max_output, 100, 10_000_000)
        ),
        scripts_by_type={
            kind: (names,) if isinstance(names, str) else tuple(names)
            for kind, names in by_type.items()
        },
        config={**own, "allow": sorted(map(str, allow)), "unknown_classes": unknown},
        retention_days=int(number("history_retention_days", 90, 1, 36_500)),
    )


def set_config(connection: psycopg.Connection[Any], key: str, value: str, actor: str) -> None:
    """Change one value, with an audit entry, if the policy can still be read with it.

    Raises:
        NotFoundError: there is no such key.
        GateMisconfiguredError: the value is not allowed; nothing is changed.
    """
    changed = connection.execute(
        "UPDATE monitoring_config SET value = %s, updated_at = now() WHERE key = %s", (value, key)
    )
    if changed.rowcount == 0:
        known = connection.execute("SELECT key FROM monitoring_config ORDER BY key").fetchall()
        raise NotFoundError(
            f"monitoring_config has no key {key!r}; there are {', '.join(k for (k,) in known)}"
        )
    load_policy(connection)
    audit.enqueue(
        connection, action="gate.policy_changed", actor=actor, resource_type="gate_policy",
        resource_id=key, data={"value": value},
    )  # fmt: skip


def _wrong(key: str, value: str, allowed: str) -> GateMisconfiguredError:
    return GateMisconfiguredError(
        f"monitoring_config.{key} is {value!r}; allowed: {allowed}",
        hint=f"secmon gate policy set {key} VALUE",
    )

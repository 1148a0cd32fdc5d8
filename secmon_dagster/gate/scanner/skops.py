"""skops files: the tree of ``schema.json`` names each type and function the loader would build.

Source: ``skops/io/_audit.py`` and ``skops/io/_utils.py`` (a node is a dict with ``__class__``,
``__module__`` and ``__loader__``).
"""

from __future__ import annotations

import json
from typing import Any

from .context import Scan
from .imports import Standing
from .source import Source

MAX_SCHEMA = 256 << 20
LOADERS = frozenset(
    {
        *("BytearrayNode", "BytesNode", "CachedNode", "ConstructorFromReduceNode", "DTypeNode"),
        *("DefaultDictNode", "DictNode", "DtypeNode", "FunctionNode", "JsonNode", "ListNode"),
        *("LossNode", "MaskedArrayNode", "MethodNode", "NdArrayNode", "ObjectNode"),
        *("OperatorFuncNode", "OrderedDictNode", "PartialNode", "QuantileForestNode"),
        *("RandomGeneratorNode", "RandomStateNode", "ReduceNode", "SGDNode", "SetNode"),
        *("SliceNode", "SparseMatrixNode", "TreeNode", "TupleNode", "TypeNode"),
        "_DictWithDeprecatedKeysNode",
    }
)


def scan_skops(scan: Scan, source: Source, where: str, members: set[str]) -> None:
    """Judge the names in ``schema.json`` and the members it refers to."""
    if source.size > MAX_SCHEMA:
        scan.report.block("skops-schema", "a schema of more than 256 MiB", where)
        return
    try:
        schema = json.loads(source.read(0, source.size))
    except (ValueError, RecursionError) as broken:
        scan.report.block("skops-schema", f"the schema is not JSON: {broken}", where)
        return
    if not isinstance(schema, dict):
        scan.report.block("skops-schema", "the schema is not an object", where)
        return
    pending: list[Any] = [schema]
    while pending:
        node = pending.pop()
        scan.budget.spend_opcodes(1)
        if isinstance(node, list):
            pending += node
        elif isinstance(node, dict):
            pending += node.values()
            if "__class__" in node or "__loader__" in node:
                _judge_node(scan, node, where, members)


def _judge_node(scan: Scan, node: dict[str, Any], where: str, members: set[str]) -> None:
    loader, module, name = node.get("__loader__"), node.get("__module__"), node.get("__class__")
    if loader is not None and loader not in LOADERS:
        scan.report.block("skops-loader", f"no loader of skops is {loader}", where)
    content = node.get("content")
    if loader == "FunctionNode" and isinstance(content, dict) and "function" in content:
        # Protocol 0; today's loader goes by the node's own names, so both are judged.
        _judge_name(scan, content.get("module_path"), content.get("function"), where)
    elif loader == "MethodNode":
        _judge_method(scan, content, where)
    if "key_types" in node:
        _judge_key_types(scan, node["key_types"], where)
    file = node.get("file")
    if isinstance(file, str) and file not in members:
        scan.report.block("skops-file", f"refers to {file}, which is not in the archive", where)
    if (module, name) in _BY_LOADER:
        return
    _judge_name(scan, module, name, where)
    if loader != "FunctionNode" and scan.policy.only_named(str(module), str(name)):
        scan.report.block("function-called", f"{loader} calls {module}.{name}", where)


def _judge_key_types(scan: Scan, node: Any, where: str) -> None:
    """A dict's keys are made by calling these with texts from the file."""
    types = node.get("content") if isinstance(node, dict) else None
    if not isinstance(types, list) or not all(
        isinstance(one, dict) and one.get("__loader__") == "TypeNode" for one in types
    ):
        scan.report.block("skops-key-types", "a key is made by something else than a type", where)


def _judge_method(scan: Scan, content: Any, where: str) -> None:
    method = content.get("func") if isinstance(content, dict) else None
    if not isinstance(method, str) or not method.isidentifier() or method.startswith("_"):
        scan.report.block("skops-method", f"binds the method {method}", where)


def _judge_name(scan: Scan, module: Any, name: Any, where: str) -> None:
    full = f"{module}.{name}"
    if not isinstance(module, str) or not isinstance(name, str):
        scan.report.block("skops-node", f"{full} is not the name of a type", where)
        return
    scan.report.imports.add(full)
    judgement = scan.policy.judge(module, name)
    if judgement.standing is Standing.REFUSED:
        scan.report.block("import", f"{full} {judgement.reason}", where, full)
    elif judgement.standing is Standing.UNKNOWN:
        scan.report.warn("unknown-class", f"{full} {judgement.reason}", where, full)


# Names a node carries only to say which loader reads it; nothing is imported for them.
_BY_LOADER = frozenset({("builtins", "function"), ("builtins", "type"), ("builtins", "NoneType")})

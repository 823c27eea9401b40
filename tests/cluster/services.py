"""PostgreSQL and Redis (or Valkey), from Debian's packages, for one cluster: own ports, own folder, nothing durable."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

from .programs import ClusterError, Program, run

INSTALL = "apt-get install postgresql redis-server"
_FAST = ("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off")


def start_postgresql(folder: Path, logs: Path, port: int) -> Program:
    """
    Start PostgreSQL, with an empty database ``airflow`` of the user ``postgres``.

    :param folder: Where its data is stored; its parents must be readable for all.
    :raises ClusterError: It is not installed or does not start.
    """
    programs = _postgresql_programs()
    user = "postgres" if os.geteuid() == 0 else None  # it does not run as root
    where = {"logs": logs, "environment": os.environ, "user": user}
    data = folder / "postgresql"
    data.mkdir(mode=0o700)
    if user:
        shutil.chown(data, user, user)
    run(
        "initdb",
        [f"{programs}/initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale", "-N", "-D", str(data)],
        **where,
    )
    address = ["-h", "127.0.0.1", "-p", str(port)]
    server = Program(
        "postgresql", [f"{programs}/postgres", "-D", str(data), *address, "-k", str(data), *_FAST], **where
    )
    try:
        server.wait_until_ready(lambda: _answers(port, b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"N"))
        run("createdb", [f"{programs}/createdb", *address, "-U", "postgres", "airflow"], **where)
    except BaseException:
        server.kill()
        raise
    return server


def start_redis(folder: Path, logs: Path, port: int) -> Program:
    """
    Start Redis or Valkey.

    :raises ClusterError: Neither is installed, or it does not start.
    """
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise ClusterError(f"Neither redis-server nor valkey-server is installed: {INSTALL}")
    options = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", "", "--appendonly", "no"]
    server = Program("redis", [program, *options], logs=logs, environment=os.environ)
    try:
        server.wait_until_ready(lambda: _answers(port, b"PING\r\n", b"+PONG"))
    except BaseException:
        server.kill()
        raise
    return server


def _postgresql_programs() -> Path:
    """Return the folder of the newest PostgreSQL; Debian does not put its server on the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not found:
        raise ClusterError(f"PostgreSQL is not installed: {INSTALL}")
    return found[-1].parent


def _answers(port: int, question: bytes, answer: bytes) -> bool:
    """Return whether a server answers: to PostgreSQL's request for TLS, or to Redis's PING."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(question)
            return connection.recv(len(answer)) == answer
    except OSError:
        return False

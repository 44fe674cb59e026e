"""A self-signed certificate for a test server, made by the `openssl` program."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.servers.child import ServerNotInstalled


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key, in *directory* and of the same owner.

    Raises `ServerNotInstalled` without the `openssl` program.
    """
    program = shutil.which("openssl")
    if program is None:
        raise ServerNotInstalled("no openssl program found: apt-get install openssl")
    certificate, key = directory / "server.crt", directory / "server.key"
    kind = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    output = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([program, "req", *kind, *name, *output], check=True, capture_output=True)
    owner = directory.stat()
    for file in (certificate, key):
        os.chown(file, owner.st_uid, owner.st_gid)
    key.chmod(0o600)  # PostgreSQL refuses a key that others may read
    return certificate, key

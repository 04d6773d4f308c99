"""`ctl serve up` without a cluster: it runs until Ctrl-C, and says in one sentence why it does not."""

from __future__ import annotations

import signal
import socket
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from cluster.core.storage.artifact import Artifact
from tests.cluster.local_cluster import LocalCluster, free_port

pytestmark = pytest.mark.heavy


def nothing_runs(home: Path) -> LocalCluster:
    """A user without a cluster."""
    return LocalCluster(home, 0, 0)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(made.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


def test_until_ctrl_c(tmp_path: Path, model: Artifact) -> None:
    """By HTTPS."""
    port = free_port()
    user = nothing_runs(tmp_path)
    chain, key = certificate(tmp_path)
    tls = ("--set", f"endpoint.access.tls_certificate={chain}", "--set", f"endpoint.access.tls_key={key}")
    process = user.popen("serve", "up", "tiny", "--port", str(port), "--store", model.store_url, *tls)
    assert process.stdout is not None
    try:
        said = ""
        while "Ctrl-C ends it" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        url = f"https://127.0.0.1:{port}/v1"
        assert url in said
        assert requests.get(f"{url}/models", timeout=10, verify=str(chain)).json()["data"][0]["id"] == "tiny"
        with pytest.raises(requests.ConnectionError):
            requests.get(f"http://127.0.0.1:{port}/v1/models", timeout=10)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(240) == 0, rest
        assert "stopped" in rest
    finally:
        process.kill()


def test_port_in_use(tmp_path: Path, model: Artifact) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        arguments = ("serve", "up", "tiny", "--port", str(port), "--store", model.store_url)
        said = nothing_runs(tmp_path).ctl(*arguments, code=4)
    assert f"port {port} is in use" in said


def test_no_such_model(tmp_path: Path, model: Artifact) -> None:
    said = nothing_runs(tmp_path).ctl("serve", "up", "tinny", "--store", model.store_url, code=3)
    assert "no artifact 'tinny'" in said and "Did you mean" in said

"""The address, the TLS files and the refusals of an MQTT broker."""

from __future__ import annotations

import dataclasses
import os
import re
import socket
import ssl
from pathlib import Path
from urllib.parse import unquote

from seqpar_deploy.errors import SinkError
from seqpar_deploy.redaction import MASK, remember, split_address
from seqpar_deploy.video.sinks.address import bracketed, host_and_port

PREFIX = "seqpar"  # default prefix of topics
_PORTS = {"mqtt": 1883, "mqtts": 8883}

_UNTRUSTED = "is signed by a CA that is not trusted; give the CA's file with --mqtt-ca"
_OF_CERTIFICATES = {  # OpenSSL's X509_V_ERR_*: the fault of the broker's certificate
    9: "is not valid yet; check the clocks of this machine and the broker",
    10: "has expired; renew it on the broker",
    18: _UNTRUSTED,
    19: _UNTRUSTED,
    20: _UNTRUSTED,
    21: _UNTRUSTED,
    62: "is for another host name; connect to the name in the certificate",
    64: "is for another IP address; connect to the name in the certificate",
}
_OWN = "refuses the client certificate of --mqtt-cert"
_NEEDS_OWN = "wants a client certificate; give one with --mqtt-cert and --mqtt-key"
_NO_TLS = "does not speak TLS on this port; write mqtt:// in place of mqtts://, or give its TLS port"
_OLD_TLS = "offers no common version of TLS or no common cipher; update the broker, or check if it wants --mqtt-cert"
_OF_TLS = {  # a part of OpenSSL's reason: the fault
    "CERTIFICATE_REQUIRED": _NEEDS_OWN,
    "DID_NOT_RETURN": _NEEDS_OWN,
    "ALERT_UNKNOWN_CA": f"{_OWN}: its CA is unknown to the broker",
    "ALERT_CERTIFICATE_EXPIRED": f"{_OWN}: it has expired; renew it",
    "ALERT_CERTIFICATE_REVOKED": f"{_OWN}: it is revoked; renew it",
    "CERTIFICATE": _OWN,
    "ALERT_ACCESS_DENIED": _OWN,
    "ALERT_DECRYPT_ERROR": _OWN,
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "UNKNOWN_PROTOCOL": _NO_TLS,
    "HTTP_REQUEST": _NO_TLS,
    "PACKET_LENGTH_TOO_LONG": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "PROTOCOL_VERSION": _OLD_TLS,
    "UNSUPPORTED_PROTOCOL": _OLD_TLS,
    "HANDSHAKE_FAILURE": _OLD_TLS,
    "UNRECOGNIZED_NAME": "has no certificate for this host name; connect to the name in its certificate",
}
_OF_CONNACK = {
    "Unsupported protocol version": "it must speak MQTT 3.1.1; update it",
    "Client identifier not valid": "it must allow any client ID that begins with seqpar; check its rules",
    "Server unavailable": "it is starting or overloaded; wait, or check its log",
    "Bad user name or password": "check both in the address, and write %40 for an @ in them",
    "Not authorized": "give a user that may connect and publish in the address, and check the broker's rules",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Broker:
    """An MQTT broker. `shown` is its host, port and prefix for messages. `tls` is None without TLS."""

    host: str
    port: int
    prefix: str
    shown: str
    user: str | None = dataclasses.field(repr=False)
    password: str | None = dataclasses.field(repr=False)
    tls: ssl.SSLContext | None = dataclasses.field(repr=False)

    def why_lost(self, error: BaseException | None) -> str:
        """Return a clause without its subject, the broker, on why a connection failed before the broker answered."""
        if isinstance(error, ssl.SSLCertVerificationError):
            fault = _OF_CERTIFICATES.get(error.verify_code, f"is not accepted: {error.verify_message}")
            return f"cannot be trusted: its certificate {fault}"
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            reason = error.reason or "unknown"
            found = next((fault for part, fault in _OF_TLS.items() if part in reason), None)
            return found or f"cannot be connected by TLS: {reason.lower().replace('_', ' ')}"
        if isinstance(error, socket.gaierror):
            return f"does not answer: the name {self.host} cannot be resolved; check the address"
        if isinstance(error, TimeoutError):
            port = f"the port {self.port}{', which must be one for TLS,' if self.tls else ''}"
            return f"does not answer in time; check the address, {port} and firewalls"
        if isinstance(error, ConnectionRefusedError):
            return f"does not answer: connection refused; check that it runs, and the port {self.port}"
        if error is None or isinstance(error, (ConnectionError, ssl.SSLEOFError)):
            if self.tls is None:
                return "closed the connection before it answered; if its port is one for TLS, write mqtts://"
            return (
                "closed the connection before it answered; if its port is one without TLS, write mqtt://, and check if "
                "it wants a client certificate (--mqtt-cert)"
            )
        return f"does not answer: {getattr(error, 'strerror', None) or type(error).__name__}"


class _Socket(ssl.SSLSocket):
    """Closes itself after a failed handshake, which paho leaves to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def why_refused(reason: str) -> str:
    """Return a clause without its subject, the broker, for the reason in its CONNACK."""
    fix = _OF_CONNACK.get(reason)
    return f"refuses: {reason}" + (f"; {fix}" if fix else "")


def read_broker(
    address: str,
    *,
    ca: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    insecure: bool = False,
) -> Broker:
    """Parse an address and read the files for TLS. Nothing is connected. Raises SinkError."""
    remember(address)
    parts = split_address(address)
    try:
        host, port = host_and_port(parts, _PORTS)
    except ValueError:
        parts = None
    if parts is None or re.search(r"[?#]", parts.rest):
        raise SinkError(
            "the MQTT address must be mqtt://[USER:PASSWORD@]HOST[:PORT][/PREFIX] or mqtts://, got another form; write "
            "%40 for @, %2F for /, %3F for ? and %23 for # in a password"
        )
    user, _, password = (unquote(part) for part in parts.userinfo.partition(":"))
    if password and not user:
        raise SinkError(
            "the MQTT address must have a user with its password, got only a password; write USER:PASSWORD@"
        )
    prefix = "/".join(map(topic_level, (unquote(parts.rest).strip("/") or PREFIX).split("/")))
    shown_path = parts.path if MASK in parts.path else f"/{prefix}"
    files = {"--mqtt-ca": ca, "--mqtt-cert": certificate, "--mqtt-key": key, "--mqtt-insecure": insecure or None}
    if parts.scheme == "mqtt" and (given := [name for name, value in files.items() if value is not None]):
        raise SinkError(f"{given[0]} needs an mqtts:// address, got mqtt://; write mqtts://, or omit {given[0]}")
    return Broker(
        host=host,
        port=port,
        prefix=prefix,
        shown=f"{bracketed(host)}:{port}" + ("" if prefix == PREFIX else shown_path),
        user=user or None,
        password=password or None,
        tls=_tls_context(ca, certificate, key, insecure=insecure) if parts.scheme == "mqtts" else None,
    )


def topic_level(name: str) -> str:
    """Return a name as one level of a topic: MQTT's separator and wildcards are replaced."""
    clean = name.encode("utf-8", "replace").decode("utf-8").translate({ord(bad): "_" for bad in "/+#"})
    return "".join(letter if letter.isprintable() else "_" for letter in clean) or "_"


def _tls_context(ca: Path | None, certificate: Path | None, key: Path | None, *, insecure: bool) -> ssl.SSLContext:
    if insecure and ca is not None:
        raise SinkError("--mqtt-insecure and --mqtt-ca exclude each other; omit --mqtt-insecure")
    if key is not None and certificate is None:
        raise SinkError("--mqtt-key needs --mqtt-cert; add --mqtt-cert, or omit --mqtt-key")
    if ca is not None:
        _check_pem(ca, "CA certificate", "CERTIFICATE")
    try:
        context = ssl.create_default_context(cafile=None if ca is None else os.fspath(ca))
    except ssl.SSLError:
        raise SinkError(f"{ca} must hold CA certificates in PEM, got damaged ones; copy the file again") from None
    context.sslsocket_class = _Socket
    if ca is not None:
        # The user trusts this file. CAs made by hand often lack what Python 3.13 requires of public ones.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate is not None:
        _load_own(context, certificate, key)
    return context


def _load_own(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    """Load the client certificate and its key."""
    _check_pem(certificate, "client certificate", "CERTIFICATE")
    holder = key or certificate
    text = _check_pem(holder, "private key", "PRIVATE KEY", "; give the key's file with --mqtt-key" if not key else "")
    if b"ENCRYPTED" in text:
        raise SinkError(
            f"{holder} must hold a private key without a passphrase, got an encrypted one; decrypt it with "
            f"`openssl pkey -in {holder} -out NEW.pem`, and protect the new file by its permissions"
        )
    try:
        context.load_cert_chain(certificate, key, password=b"")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise SinkError(
                f"the private key in {holder} must belong to the certificate in {certificate}, got another one; "
                "give the pair that was made together"
            ) from None
        raise SinkError(
            f"{certificate} and {holder} must be a certificate and its key, got ones that cannot be read; copy them "
            "again"
        ) from None


def _check_pem(path: Path, what: str, kind: str, fix: str = "") -> bytes:
    """Return the content of a PEM file. Raises SinkError if it has no block of the kind."""
    try:
        with path.open("rb") as file:
            content = file.read(1 << 20)
    except OSError as error:
        raise SinkError(f"the file of the {what} cannot be read: {path}: {error.strerror}; check the path") from None
    if re.search(rb"-----BEGIN [A-Z0-9 ]*" + kind.encode() + rb"-----", content):
        return content
    kinds = [found.decode().lower() for found in re.findall(rb"-----BEGIN ([A-Z0-9 ]+)-----", content)]
    if not content:
        got = "an empty file"
    elif kinds:
        got = f"a file with a {kinds[0]} only"
    else:
        got = "a binary file; convert DER with `openssl ... -inform der`" if content[0] == 0x30 else "no PEM"
    raise SinkError(f"{path} must hold a {what} in PEM (-----BEGIN {kind}-----), got {got}{fix}")

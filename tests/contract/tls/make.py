#!/usr/bin/env python3
"""Makes the certificates that the tests of the clients use: pip install cryptography, and
run it by hand where they do not do any more. They are for nothing else: the keys are public.
"""

import ipaddress
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

FOLDER = Path(__file__).resolve().parent


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def issue(subject, key, issuer, signer, extensions):
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1))
        .not_valid_after(datetime(2120, 1, 1))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signer, hashes.SHA256())


def write(file, certificate, key=None):
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (FOLDER / f"{file}.pem").write_bytes(pem)
    if key is not None:
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        (FOLDER / f"{file}.key").write_bytes(pem)


def key():
    return ec.generate_private_key(ec.SECP256R1())


is_ca = [x509.BasicConstraints(ca=True, path_length=None)]
authority = key()
write("ca", issue("tenantd tests", authority, "tenantd tests", authority, is_ca))
stranger = key()
write("foreign", issue("somebody else", stranger, "somebody else", stranger, is_ca))
server = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
for file, usage, names in [
    ("server", ExtendedKeyUsageOID.SERVER_AUTH, server),
    ("agent", ExtendedKeyUsageOID.CLIENT_AUTH,
     [x509.UniformResourceIdentifier("spiffe://example.org/acme/agent")]),
    ("other", ExtendedKeyUsageOID.CLIENT_AUTH,
     [x509.UniformResourceIdentifier("spiffe://example.org/other")]),
]:
    own = key()
    extensions = [
        x509.BasicConstraints(ca=False, path_length=None),
        x509.ExtendedKeyUsage([usage]),
        x509.SubjectAlternativeName(names),
    ]
    write(file, issue(file, own, "tenantd tests", authority, extensions), own)

"""An issuer of JSON Web Tokens, good and bad ones."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

ISSUER = "https://id.hma.test"
AUDIENCE = "hma-tests"


class Issuer:
    """Issues tokens with a key of its own."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @property
    def public_pem(self) -> bytes:
        """The public key, as everybody may have it."""
        return self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def key_set(self) -> str:
        """The JSON Web Key Set."""
        key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key()))
        return json.dumps({"keys": [{**key, "kid": "1", "alg": "RS256", "use": "sig"}]})

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Claims that are good; None takes one away."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "ada",
            "iat": now,
            "exp": now + 300,
            "tenant": "acme",
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, **changes: Any) -> str:
        """A token with such claims."""
        return jwt.encode(self.claims(**changes), self._key, "RS256", headers={"kid": "1"})

    def unsigned(self) -> str:
        """A token of which its header says that it needs no signature."""
        return jwt.encode(self.claims(), "", "none")

    def signed_with_the_public_key(self) -> str:
        """A token whose HMAC is made with what everybody has."""
        parts = ".".join(
            base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
            for part in ({"alg": "HS256", "typ": "JWT", "kid": "1"}, self.claims())
        )
        mac = hmac.new(self.public_pem, parts.encode(), hashlib.sha256).digest()
        return f"{parts}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"

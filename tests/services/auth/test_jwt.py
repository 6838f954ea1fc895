"""Platform JWTs: which are believed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from common.errors import Unauthenticated
from services.auth.jwt import JwtVerifier, looks_like_jwt
from tests.services.auth.support import JWT_SECRET, Clock

_PRIVATE = Ed25519PrivateKey.generate()


class _OneKey:
    """Knows one public key, whatever its id."""

    async def find(self, kid: str | None, *, algorithm: str) -> jwt.PyJWK:
        return jwt.PyJWK(jwt.algorithms.OKPAlgorithm.to_jwk(_PRIVATE.public_key(), as_dict=True), "EdDSA")


def _claims(clock: Clock, **changes: Any) -> dict[str, Any]:
    claims = {"sub": "alice", "iat": clock.seconds(), "exp": clock.seconds() + 3600} | changes
    return {name: value for name, value in claims.items() if value is not None}


def _signed(claims: dict[str, Any], *, secret: SecretStr = JWT_SECRET, algorithm: str = "HS256") -> str:
    return jwt.encode(claims, secret.get_secret_value(), algorithm=algorithm)


def _by_hand(header: Any, payload: Any, *, key: bytes) -> str:
    """Return a JWT with parts that no library would sign."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, payload)]
    signed = b".".join(parts)
    signature = base64.urlsafe_b64encode(hmac.digest(key, signed, hashlib.sha256)).rstrip(b"=")
    return (signed + b"." + signature).decode()


@pytest.fixture
def verifier(clock: Clock) -> JwtVerifier:
    return JwtVerifier(secret=JWT_SECRET, now=clock.now)


async def _refused(verifier: JwtVerifier, token: str) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as refusal:
        await verifier.verify(token)
    assert token not in refusal.value.message
    return refusal.value


async def test_a_good_one_says_who_holds_it_and_how_long(verifier: JwtVerifier, clock: Clock) -> None:
    claims = await verifier.verify(_signed(_claims(clock)))
    assert claims.subject == "alice"
    assert claims.expires_at == datetime.fromtimestamp(clock.seconds() + 3600, UTC)


async def test_without_a_secret_and_keys_all_are_refused(clock: Clock) -> None:
    refusal = await _refused(JwtVerifier(now=clock.now), _signed(_claims(clock)))
    assert refusal.code == "jwt_not_configured"
    assert "TURNPIKE_JWT_SECRET" in refusal.message


async def test_another_secret_is_refused(verifier: JwtVerifier, clock: Clock) -> None:
    token = _signed(_claims(clock), secret=SecretStr("another secret of 32 characters!"))
    assert (await _refused(verifier, token)).code == "invalid_jwt"


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
@pytest.mark.filterwarnings("ignore:The HMAC key is")  # The secret is long enough for HS256, which is meant here.
async def test_another_symmetric_algorithm_is_refused(verifier: JwtVerifier, clock: Clock, algorithm: str) -> None:
    assert "algorithm" in (await _refused(verifier, _signed(_claims(clock), algorithm=algorithm))).message


@pytest.mark.parametrize("algorithm", ["none", "None", "hs256", "", None, 1, [], ["HS256"], {"HS256": 1}])
async def test_a_made_up_algorithm_is_refused(verifier: JwtVerifier, clock: Clock, algorithm: Any) -> None:
    key = JWT_SECRET.get_secret_value().encode()
    await _refused(verifier, _by_hand({"alg": algorithm, "typ": "JWT"}, _claims(clock), key=key))
    unsigned = _by_hand({"alg": algorithm}, _claims(clock), key=key).rpartition(".")[0] + "."
    await _refused(verifier, unsigned)


async def test_each_algorithm_has_its_own_keys(clock: Clock) -> None:
    asymmetric = jwt.encode(_claims(clock), _PRIVATE, algorithm="EdDSA")
    only_keys = JwtVerifier(keys=_OneKey(), now=clock.now)
    both = JwtVerifier(secret=JWT_SECRET, keys=_OneKey(), now=clock.now)
    assert (await only_keys.verify(asymmetric)).subject == "alice"
    assert (await both.verify(asymmetric)).subject == "alice"
    assert (await both.verify(_signed(_claims(clock)))).subject == "alice"
    await _refused(only_keys, _signed(_claims(clock)))
    await _refused(JwtVerifier(secret=JWT_SECRET, now=clock.now), asymmetric)


async def test_a_public_key_is_no_secret(clock: Clock) -> None:
    public = _PRIVATE.public_key()
    for key in (
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.Raw, PublicFormat.Raw),
    ):
        token = _by_hand({"alg": "HS256", "typ": "JWT"}, _claims(clock), key=key)
        await _refused(JwtVerifier(keys=_OneKey(), now=clock.now), token)
        await _refused(JwtVerifier(secret=JWT_SECRET, keys=_OneKey(), now=clock.now), token)
        # Nor does the key's real algorithm believe such a signature.
        await _refused(JwtVerifier(keys=_OneKey(), now=clock.now), _by_hand({"alg": "EdDSA"}, _claims(clock), key=key))


async def test_it_expires_after_the_leeway(verifier: JwtVerifier, clock: Clock) -> None:
    token = _signed(_claims(clock))
    clock.advance(3600 + 29)
    assert (await verifier.verify(token)).subject == "alice"
    clock.advance(1)
    assert (await _refused(verifier, token)).code == "expired_jwt"


@pytest.mark.parametrize("name", ["nbf", "iat"])
async def test_it_begins_before_the_leeway(verifier: JwtVerifier, clock: Clock, name: str) -> None:
    token = _signed(_claims(clock, **{name: clock.seconds() + 60}))
    await _refused(verifier, token)
    clock.advance(30)
    assert (await verifier.verify(token)).subject == "alice"


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", ["1", True, -1, 1e300, float("nan"), float("inf"), 1_795_258_381_000, [], {}])
async def test_a_time_that_is_none_is_refused(verifier: JwtVerifier, clock: Clock, name: str, value: Any) -> None:
    token = _by_hand({"alg": "HS256"}, _claims(clock, **{name: value}), key=JWT_SECRET.get_secret_value().encode())
    assert (await _refused(verifier, token)).code == "invalid_jwt"


@pytest.mark.parametrize("name", ["exp", "sub"])
async def test_expiry_and_subject_are_required(verifier: JwtVerifier, clock: Clock, name: str) -> None:
    assert name in (await _refused(verifier, _signed(_claims(clock, **{name: None})))).message


@pytest.mark.parametrize("subject", ["", "a\nb", "a\0", "x" * 257, "\ud800", 7, ["alice"], {"a": 1}, "a\u202eb"])
async def test_a_subject_must_be_a_name(verifier: JwtVerifier, clock: Clock, subject: Any) -> None:
    token = _by_hand({"alg": "HS256"}, _claims(clock, sub=subject), key=JWT_SECRET.get_secret_value().encode())
    assert (await _refused(verifier, token)).code == "invalid_jwt"


async def test_the_longest_subject_is_taken(verifier: JwtVerifier, clock: Clock) -> None:
    assert (await verifier.verify(_signed(_claims(clock, sub="é" * 256)))).subject == "é" * 256


@pytest.mark.parametrize("issuer", [None, "https://other.example", ["https://issuer.example"]])
async def test_the_issuer_must_be_the_one_set(clock: Clock, issuer: Any) -> None:
    verifier = JwtVerifier(secret=JWT_SECRET, issuer="https://issuer.example", now=clock.now)
    key = JWT_SECRET.get_secret_value().encode()
    assert await verifier.verify(_signed(_claims(clock, iss="https://issuer.example")))
    await _refused(verifier, _by_hand({"alg": "HS256"}, _claims(clock, iss=issuer), key=key))


@pytest.mark.parametrize("audience", [None, "other", ["other"], [], {"gateway": 1}])
async def test_the_audience_must_have_the_one_set(clock: Clock, audience: Any) -> None:
    verifier = JwtVerifier(secret=JWT_SECRET, audience="gateway", now=clock.now)
    assert await verifier.verify(_signed(_claims(clock, aud="gateway")))
    assert await verifier.verify(_signed(_claims(clock, aud=["other", "gateway"])))
    await _refused(verifier, _signed(_claims(clock, aud=audience)))


async def test_an_audience_is_not_looked_at_when_none_is_set(verifier: JwtVerifier, clock: Clock) -> None:
    assert await verifier.verify(_signed(_claims(clock, aud="somebody", iss="somewhere")))


@pytest.mark.parametrize("depth", [10, 3000])
async def test_deep_json_is_refused(verifier: JwtVerifier, depth: int) -> None:
    part = base64.urlsafe_b64encode(b"[" * depth).rstrip(b"=").decode()
    await _refused(verifier, f"{part}.{part}.AAAA")
    header = base64.urlsafe_b64encode(b'{"alg":"HS256"}').rstrip(b"=")
    signed = header + b"." + part.encode()
    signature = hmac.digest(JWT_SECRET.get_secret_value().encode(), signed, hashlib.sha256)
    await _refused(verifier, f"{signed.decode()}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}")


@given(part=st.sampled_from([0, 1, 2]), place=st.integers(0, 200), character=st.characters(exclude_characters="."))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # The clock stands still in between.
async def test_a_changed_jwt_is_refused(
    verifier: JwtVerifier, clock: Clock, part: int, place: int, character: str
) -> None:
    parts = _signed(_claims(clock)).split(".")
    place %= len(parts[part])
    changed = parts[part][:place] + character + parts[part][place + 1 :]
    # The last character of a part has bits that mean nothing; such a change is none.
    if changed != parts[part] and place < len(parts[part]) - 1:
        parts[part] = changed
        await _refused(verifier, ".".join(parts))


@given(st.text(), st.text(), st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # The verifier keeps no state.
async def test_any_three_parts_are_refused(verifier: JwtVerifier, one: str, two: str, three: str) -> None:
    await _refused(verifier, f"{one}.{two}.{three}.")


def test_what_looks_like_a_jwt() -> None:
    assert looks_like_jwt("a.b.c")
    assert not looks_like_jwt("a.b")
    assert not looks_like_jwt("a.b.c.d")

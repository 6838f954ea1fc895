"""The platform's public keys: which are taken, how often they are fetched, what happens when the URL is down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from common.errors import Unauthenticated, Unavailable
from services.auth.jwks import JwksKeys
from services.auth.jwt import JwtVerifier
from tests.services.auth.support import Clock, KeyServer
from tests.waiting import until

_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
_EC = ec.generate_private_key(ec.SECP256R1())
_ED = ed25519.Ed25519PrivateKey.generate()


def _rsa_entry(**more: Any) -> dict[str, Any]:
    return jwt.algorithms.RSAAlgorithm.to_jwk(_RSA.public_key(), as_dict=True) | {"kid": "rsa"} | more


def _ec_entry(**more: Any) -> dict[str, Any]:
    return jwt.algorithms.ECAlgorithm.to_jwk(_EC.public_key(), as_dict=True) | {"kid": "ec"} | more


def _ed_entry(**more: Any) -> dict[str, Any]:
    return jwt.algorithms.OKPAlgorithm.to_jwk(_ED.public_key(), as_dict=True) | {"kid": "ed"} | more


def _set(*entries: Any) -> bytes:
    return json.dumps({"keys": entries}).encode()


@pytest.fixture
async def server() -> AsyncIterator[KeyServer]:
    async with KeyServer(_set(_rsa_entry(), _ec_entry(), _ed_entry())) as server:
        yield server


@pytest.fixture
async def keys(server: KeyServer, clock: Clock) -> AsyncIterator[JwksKeys]:
    keys = JwksKeys(server.url, clock=clock.seconds)
    yield keys
    await keys.aclose()


@pytest.mark.parametrize(
    ("kid", "algorithm", "private"), [("rsa", "RS256", _RSA), ("ec", "ES256", _EC), ("ed", "EdDSA", _ED)]
)
async def test_each_algorithm(keys: JwksKeys, clock: Clock, kid: str, algorithm: str, private: Any) -> None:
    verifier = JwtVerifier(keys=keys, now=clock.now)
    claims = {"sub": "alice", "exp": clock.seconds() + 60}
    for headers in ({"kid": kid}, {}):
        token = jwt.encode(claims, private, algorithm=algorithm, headers=headers)
        assert (await verifier.verify(token)).subject == "alice"
    for other in {"rsa", "ec", "ed"} - {kid}:
        with pytest.raises(Unauthenticated):
            await verifier.verify(jwt.encode(claims, private, algorithm=algorithm, headers={"kid": other}))


async def test_many_callers_share_one_fetch(keys: JwksKeys, server: KeyServer) -> None:
    await asyncio.gather(*(keys.find("rsa", algorithm="RS256") for _ in range(50)))
    assert server.requests == 1


async def test_a_caller_that_leaves_does_not_stop_the_others(keys: JwksKeys, server: KeyServer) -> None:
    first = asyncio.create_task(keys.find("rsa", algorithm="RS256"))
    second = asyncio.create_task(keys.find("rsa", algorithm="RS256"))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).key_id == "rsa"
    assert server.requests == 1


async def test_an_unknown_id_fetches_at_most_every_30_seconds(keys: JwksKeys, server: KeyServer, clock: Clock) -> None:
    await keys.find("rsa", algorithm="RS256")
    for _ in range(5):
        with pytest.raises(Unauthenticated):
            await keys.find("new", algorithm="RS256")
    assert server.requests == 1
    server.body = _set(_rsa_entry(kid="new"))
    clock.advance(30)
    assert (await keys.find("new", algorithm="RS256")).key_id == "new"
    assert server.requests == 2
    # What the platform withdrew is gone.
    with pytest.raises(Unauthenticated):
        await keys.find("rsa", algorithm="RS256")


async def test_a_withdrawn_key_stops_working_when_the_set_is_old(
    keys: JwksKeys, server: KeyServer, clock: Clock
) -> None:
    await keys.find("rsa", algorithm="RS256")
    server.body = _set(_ec_entry())
    clock.advance(601)
    # This call does not wait for the new set; it only sees to it.
    await keys.find("rsa", algorithm="RS256")
    await until(lambda: server.requests == 2)
    async with asyncio.timeout(30):
        while True:
            try:
                await keys.find("rsa", algorithm="RS256")
            except Unauthenticated:
                break
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    "broken", [b"", b"[]", b"{}", b'{"keys":{}}', b'{"keys":[]}', b"\xff", b"[" * 5000, b" " * 2_000_000]
)
async def test_keys_are_kept_while_the_url_gives_none(
    keys: JwksKeys, server: KeyServer, clock: Clock, broken: bytes
) -> None:
    await keys.find("rsa", algorithm="RS256")
    server.body = broken
    clock.advance(10_000)
    with pytest.raises(Unavailable):
        await keys.find("new", algorithm="RS256")
    assert server.requests == 2
    assert (await keys.find("rsa", algorithm="RS256")).key_id == "rsa"


async def test_an_url_that_is_down_is_503_and_tried_again_soon(keys: JwksKeys, server: KeyServer, clock: Clock) -> None:
    server.status = 500
    for _ in range(3):
        with pytest.raises(Unavailable):
            await keys.find("rsa", algorithm="RS256")
    assert server.requests == 1
    server.status = 200
    clock.advance(2)
    assert (await keys.find("rsa", algorithm="RS256")).key_id == "rsa"


async def test_nothing_listens(clock: Clock) -> None:
    async with KeyServer(b"") as server:
        url = server.url
    keys = JwksKeys(url, clock=clock.seconds)
    with pytest.raises(Unavailable):
        await keys.find("rsa", algorithm="RS256")
    await keys.aclose()


async def test_only_public_keys_for_signatures_are_taken(keys: JwksKeys, server: KeyServer) -> None:
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()  # noqa: S505 - too small, to be refused
    server.body = _set(
        {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "kid": "oct", "alg": "HS256"},
        _rsa_entry(kid="encryption", use="enc"),
        _rsa_entry(kid="pss", alg="PS256"),
        _rsa_entry(kid="mixed", alg="HS256"),
        _rsa_entry(kid=7),
        jwt.algorithms.RSAAlgorithm.to_jwk(_RSA, as_dict=True) | {"kid": "private"},
        jwt.algorithms.RSAAlgorithm.to_jwk(small, as_dict=True) | {"kid": "small"},
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "?"},
        {"kid": "nothing"},
        "text",
        _rsa_entry(kid="good", use="sig", alg="RS256"),
    )
    assert (await keys.find(None, algorithm="RS256")).key_id == "good"
    for kid in ("oct", "encryption", "pss", "mixed", "private", "small", "broken", "nothing"):
        for algorithm in ("RS256", "PS256", "HS256"):
            with pytest.raises(Unauthenticated):
                await keys.find(kid, algorithm=algorithm)

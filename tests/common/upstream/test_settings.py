"""How services are told to reach providers, and what they say when that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.settings import load
from common.upstream.settings import ConnectionSettings
from tests.common.upstream.certificates import Certificates, issue


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority and its certificates."""
    return issue(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without anything that these settings read."""
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


@pytest.mark.parametrize("lower", [False, True], ids=["upper case", "lower case"])
def test_proxies_come_from_the_environment(environment: pytest.MonkeyPatch, lower: bool) -> None:  # noqa: FBT001
    for name, value in (("HTTPS_PROXY", "http://a:1"), ("HTTP_PROXY", "b:2"), ("NO_PROXY", ".test")):
        environment.setenv(name.lower() if lower else name, value)
    proxies = load(ConnectionSettings).proxies
    found = [proxies.proxy_for(url) for url in ("https://x.example", "http://x.example", "http://x.test")]
    assert [proxy.url if proxy else None for proxy in found] == ["http://a:1", "http://b:2", None]


def test_without_settings_the_systems_authorities_are_trusted(environment: pytest.MonkeyPatch) -> None:
    settings = load(ConnectionSettings)
    assert settings.tls is None
    assert settings.proxies.proxy_for("https://x.example") is None


def test_authorities_and_a_certificate_are_read(environment: pytest.MonkeyPatch, certificates: Certificates) -> None:
    environment.setenv("TURNPIKE_UPSTREAM_CA_FILE", str(certificates.authority))
    environment.setenv("TURNPIKE_UPSTREAM_CLIENT_CERTIFICATE", str(certificates.client))
    environment.setenv("TURNPIKE_UPSTREAM_CLIENT_KEY", str(certificates.client_key))
    tls = load(ConnectionSettings).tls
    assert tls is not None
    subjects = [str(each["subject"]) for each in tls.get_ca_certs()]
    assert any("authority of a test" in subject for subject in subjects)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"HTTPS_PROXY": "socks5://user:secret@proxy:1080"}, "HTTPS_PROXY is wrong"),
        ({"HTTP_PROXY": "http://"}, "HTTP_PROXY is wrong"),
        ({"TURNPIKE_UPSTREAM_CA_FILE": "/nowhere.pem"}, "TURNPIKE_UPSTREAM_CA_FILE is wrong"),
        ({"TURNPIKE_UPSTREAM_CA_FILE": "KEY"}, "TURNPIKE_UPSTREAM_CA_FILE is wrong"),
        ({"TURNPIKE_UPSTREAM_CLIENT_CERTIFICATE": "/nowhere.pem"}, "TURNPIKE_UPSTREAM_CLIENT_CERTIFICATE is wrong"),
        ({"TURNPIKE_UPSTREAM_CLIENT_CERTIFICATE": "CLIENT"}, "TURNPIKE_UPSTREAM_CLIENT_CERTIFICATE is wrong"),
        (
            {"TURNPIKE_UPSTREAM_CLIENT_CERTIFICATE": "CLIENT", "TURNPIKE_UPSTREAM_CLIENT_KEY": "CLIENT"},
            "TURNPIKE_UPSTREAM_CLIENT_CERTIFICATE or TURNPIKE_UPSTREAM_CLIENT_KEY is wrong",
        ),
        ({"TURNPIKE_UPSTREAM_CLIENT_KEY": "KEY"}, "TURNPIKE_UPSTREAM_CLIENT_CERTIFICATE is not"),
    ],
)
def test_a_wrong_setting_is_named_at_the_start_and_not_shown(
    environment: pytest.MonkeyPatch,
    certificates: Certificates,
    capsys: pytest.CaptureFixture[str],
    values: dict[str, str],
    named: str,
) -> None:
    files: dict[str, Path] = {"KEY": certificates.client_key, "CLIENT": certificates.client}
    for name, value in values.items():
        environment.setenv(name, str(files.get(value, value)))
    with pytest.raises(SystemExit):
        load(ConnectionSettings)
    shown = capsys.readouterr().err
    assert named in shown
    assert "secret" not in shown

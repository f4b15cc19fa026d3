"""Who may use the dashboard, as the configuration says it: what is accepted, what is refused, what a message may show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from cheap_passwords import cheap_hash

from fallback.config import DashboardSettings, Settings, load
from fallback.core.errors import ConfigError
from fallback.signin import People

ROOT = Path(__file__).parents[1]
RIGHT, LOOKING = "correct horse", "only looking"
SECRET = "a secret for these tests"
REDIRECT = "https://llm.example.com/oauth2callback"
CLIENT = 'client_id = "the-client"\nclient_secret = "hush-hush-hush"\nserver_metadata_url = "https://id.example/openid"\n'
AUTH = f'[auth]\nredirect_uri = "{REDIRECT}"\n{CLIENT}'
LISTED = {"SESSION_SECRET": SECRET, "DASHBOARD_OPERATORS": "alice@example.com"}


def read(folder: Path, environ: Mapping[str, str], secrets: str | None = None, **more: Any) -> Settings:
    tree = {"providers": [{"name": "one", "endpoint": "https://example.com/v1", "model": "m"}], **more}
    file = folder / "providers.yaml"
    file.write_text(yaml.safe_dump(tree))
    if secrets is not None:
        (folder / ".streamlit").mkdir()
        (folder / ".streamlit" / "secrets.toml").write_text(secrets)
    return load(file, environ=environ)


def problems(folder: Path, environ: Mapping[str, str], secrets: str | None = None, **more: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(folder, environ, secrets, **more)
    return [str(problem) for problem in caught.value.problems]


def test_without_a_word_about_it_nobody_signs_in(tmp_path: Path) -> None:
    settings = read(tmp_path, {})
    assert settings.dashboard == DashboardSettings()
    assert not settings.dashboard.guarded


def test_the_shipped_block_and_the_documentation_name_the_default(tmp_path: Path) -> None:
    written = yaml.safe_load((ROOT / "providers.yaml").read_text(encoding="utf-8"))["dashboard"]
    assert written == {"session_s": DashboardSettings().session_s}
    text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    match = re.search(r"^\| `session_s` \| `(\d+)` \|", text, re.MULTILINE)
    assert match
    assert int(match[1]) == DashboardSettings().session_s


def test_a_password_is_kept_as_a_hash_whether_it_stands_there_as_one_or_not(tmp_path: Path) -> None:
    known = cheap_hash(RIGHT)
    settings = read(
        tmp_path,
        {"DASHBOARD_PASSWORD": known.text(), "DASHBOARD_VIEWER_PASSWORD": LOOKING},
        dashboard={"session_s": 600},
    )
    dashboard = settings.dashboard
    assert dashboard.guarded
    assert dashboard.password == known
    assert dashboard.viewer_password is not None
    assert dashboard.viewer_password.matches(LOOKING)
    assert dashboard.session_s == 600
    assert LOOKING not in repr(settings)
    assert known.text() not in repr(settings)


def test_the_hash_of_a_plain_password_is_the_same_after_a_restart_where_there_is_a_secret(
    tmp_path: Path,
) -> None:
    with_secret = {"DASHBOARD_PASSWORD": RIGHT, "SESSION_SECRET": SECRET}
    one, two = (read(tmp_path, with_secret).dashboard.password for _ in range(2))
    assert one == two
    other = read(tmp_path, {**with_secret, "SESSION_SECRET": "another secret for tests"}).dashboard.password
    assert other != one
    without = [read(tmp_path, {"DASHBOARD_PASSWORD": RIGHT}).dashboard.password for _ in range(2)]
    assert without[0] != without[1]


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"DASHBOARD_PASSWORD": "short77"}, "DASHBOARD_PASSWORD: expected 8 to 1024 characters"),
        ({"DASHBOARD_PASSWORD": "x" * 1025}, "DASHBOARD_PASSWORD: expected 8 to 1024 characters"),
        (
            {"DASHBOARD_PASSWORD": "scrypt:16384:8:5:x:y"},
            "DASHBOARD_PASSWORD: is not a hash that can be read",
        ),
        ({"DASHBOARD_PASSWORD": "scrypt$16384$8$5"}, "DASHBOARD_PASSWORD: is not a hash that can be read"),
        ({"DASHBOARD_VIEWER_PASSWORD": LOOKING}, "DASHBOARD_VIEWER_PASSWORD: goes with DASHBOARD_PASSWORD"),
        (
            {"DASHBOARD_PASSWORD": RIGHT, "DASHBOARD_VIEWER_PASSWORD": RIGHT},
            "DASHBOARD_VIEWER_PASSWORD: is the same as DASHBOARD_PASSWORD",
        ),
        (
            {"DASHBOARD_PASSWORD": cheap_hash(RIGHT).text(), "DASHBOARD_VIEWER_PASSWORD": RIGHT},
            "DASHBOARD_VIEWER_PASSWORD: is the same as DASHBOARD_PASSWORD",
        ),
        (
            {"DASHBOARD_PASSWORD": RIGHT, "DASHBOARD_VIEWER_PASSWORD": cheap_hash(RIGHT).text()},
            "DASHBOARD_VIEWER_PASSWORD: is the same as DASHBOARD_PASSWORD",
        ),
        (
            {"DASHBOARD_OPERATORS": "alice@example.com"},
            "DASHBOARD_OPERATORS: is for people whom an OpenID provider",
        ),
        ({"DASHBOARD_VIEWERS": "*"}, "DASHBOARD_VIEWERS: is for people whom an OpenID provider"),
        ({"DASHBOARD_VIEWERS": "*.example.com"}, "DASHBOARD_VIEWERS: entry 1: expected an e-mail address"),
    ],
)
def test_what_makes_no_sense_is_told_once_and_quotes_no_password(
    tmp_path: Path, environ: dict[str, str], told: str
) -> None:
    (problem,) = problems(tmp_path, environ)
    assert problem.startswith(told)
    assert not any(value in problem for value in environ.values())


def test_a_session_is_neither_too_short_nor_too_long_and_a_password_does_not_belong_in_the_file(
    tmp_path: Path,
) -> None:
    for value in (59, 2_592_001, "12h"):
        assert (
            "dashboard.session_s: expected a number"
            in problems(tmp_path, {}, dashboard={"session_s": value})[0]
        )
    (problem,) = problems(tmp_path, {}, dashboard={"password": RIGHT})
    assert problem.startswith("dashboard.password: a key does not belong in this file")
    assert RIGHT not in problem


# An OpenID provider


def test_a_section_auth_opens_the_way_through_a_provider(tmp_path: Path) -> None:
    dashboard = read(tmp_path, LISTED, AUTH).dashboard
    assert dashboard.guarded
    assert dashboard.operators == People(emails=frozenset({"alice@example.com"}))
    assert dashboard.oidc is not None
    assert dashboard.oidc.origin == "https://llm.example.com"
    assert dict(dashboard.oidc.providers) == {"default": "single sign-on"}
    assert dashboard.oidc.cookie_secret.reveal() == SECRET
    assert dashboard.oidc.section["cookie_secret"] == SECRET
    assert "hush-hush-hush" not in repr(dashboard)


def test_several_providers_and_a_secret_of_their_own(tmp_path: Path) -> None:
    text = f'[auth]\nredirect_uri = "{REDIRECT}"\ncookie_secret = "one of its own, long"\n[auth.google]\n{CLIENT}[auth.okta]\n{CLIENT}'
    oidc = read(tmp_path, LISTED, text).dashboard.oidc
    assert oidc is not None
    assert dict(oidc.providers) == {"google": "Google", "okta": "Okta"}
    assert oidc.cookie_secret.reveal() == "one of its own, long"


def test_a_file_of_secrets_for_something_else_changes_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, {}, '[database]\npassword = "x"\n').dashboard == DashboardSettings()


@pytest.mark.parametrize(
    ("secrets", "environ", "told"),
    [
        ("[auth", LISTED, [".streamlit/secrets.toml: cannot be read (it is not TOML)"]),
        ("auth = 3", LISTED, [".streamlit/secrets.toml: auth: expected a section: [auth]"]),
        (
            AUTH.replace(REDIRECT, "https://llm.example.com/"),
            LISTED,
            [
                ".streamlit/secrets.toml: auth.redirect_uri: expected the address of the dashboard and /oauth2callback"
            ],
        ),
        (
            AUTH.replace(REDIRECT, "http://localhost:{port}/oauth2callback"),
            LISTED,
            [
                ".streamlit/secrets.toml: auth.redirect_uri: expected the address of the dashboard and /oauth2callback"
            ],
        ),
        (
            f'[auth]\nredirect_uri = "{REDIRECT}"\n',
            LISTED,
            [
                ".streamlit/secrets.toml: auth: names no OpenID provider: client_id, client_secret, server_metadata_url"
            ],
        ),
        (
            f'[auth]\nredirect_uri = "{REDIRECT}"\n[auth.google]\nclient_id = "x"\nclient_secret = 3\n',
            LISTED,
            [
                ".streamlit/secrets.toml: auth.google.client_secret: expected a text",
                ".streamlit/secrets.toml: auth.google.server_metadata_url: expected a text",
            ],
        ),
        (
            f'[auth]\nredirect_uri = "{REDIRECT}"\n[auth.my_own]\n{CLIENT}',
            LISTED,
            [".streamlit/secrets.toml: auth: the name of a provider holds small letters"],
        ),
        (
            AUTH,
            {"DASHBOARD_OPERATORS": "alice@example.com"},
            [".streamlit/secrets.toml: auth.cookie_secret: expected at least 16 characters"],
        ),
        (AUTH, {"SESSION_SECRET": SECRET}, ["DASHBOARD_OPERATORS: nobody could come in: name who may"]),
    ],
)
def test_a_section_that_makes_no_sense_is_told_and_quotes_no_secret(
    tmp_path: Path, secrets: str, environ: dict[str, str], told: list[str]
) -> None:
    found = problems(tmp_path, environ, secrets)
    assert len(found) == len(told)
    for problem, beginning in zip(found, told, strict=True):
        assert problem.startswith(beginning)
        assert "hush" not in problem

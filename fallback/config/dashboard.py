"""Who may use the dashboard: the `dashboard` block, DASHBOARD_* and the section [auth] of .streamlit/secrets.toml.

No password is kept: what stands in the configuration as it is becomes a hash here. No problem quotes a password, a key or an
address.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from fallback.config.section import Number, Section, given
from fallback.core.errors import Problem
from fallback.providers.settings import Secret
from fallback.signin import DashboardSettings, OidcSettings, PasswordHash, People
from fallback.signin.passwords import MAX_PASSWORD_CHARS, MIN_PASSWORD_CHARS, looks_like_a_hash

__all__ = ["DASHBOARD_KEYS", "SECRETS_FILE", "read_dashboard"]

DASHBOARD_KEYS = ("session_s",)
SECRETS_FILE = ".streamlit/secrets.toml"
MAX_SECRETS_BYTES = 256 * 1024
_SESSION = Number(low=60, high=30 * 86_400)
_PASSWORD, _VIEWER_PASSWORD = "DASHBOARD_PASSWORD", "DASHBOARD_VIEWER_PASSWORD"
_OPERATORS, _VIEWERS = "DASHBOARD_OPERATORS", "DASHBOARD_VIEWERS"
_AUTH = f"{SECRETS_FILE}: auth"
_NEEDED = ("client_id", "client_secret", "server_metadata_url")
_REDIRECT = re.compile(
    r"(?P<origin>https?://[A-Za-z0-9.-]+(:\d{1,5})?|https?://\[[0-9a-fA-F:]+\](:\d{1,5})?)/oauth2callback"
)
_PROVIDER_NAME = re.compile(r"[a-z0-9-]{1,32}")
_TITLES: Final[Mapping[str, str]] = MappingProxyType(
    {"default": "single sign-on", "okta": "Okta", "auth0": "Auth0"}
)


def read_dashboard(
    top: Section, variables: Mapping[str, str], folder: Path, problems: list[Problem]
) -> DashboardSettings:
    """Return who may use the dashboard. `folder` is that of providers.yaml, and .streamlit/ is looked for in it."""
    session_s = top.section("dashboard", DASHBOARD_KEYS).number("session_s", _SESSION)
    password = _password(_PASSWORD, variables, problems)
    viewer_password = _password(_VIEWER_PASSWORD, variables, problems)
    if viewer_password is not None and password is None and _PASSWORD not in variables:
        _note(problems, _VIEWER_PASSWORD, f"goes with {_PASSWORD}, which is not set")
    if _are_the_same(variables, password, viewer_password):
        _note(problems, _VIEWER_PASSWORD, f"is the same as {_PASSWORD}: viewers need one of their own")
    oidc = _oidc(folder / SECRETS_FILE, variables, problems)
    operators = _people(_OPERATORS, variables, problems)
    viewers = _people(_VIEWERS, variables, problems)
    if oidc is None:
        for name, people in ((_OPERATORS, operators), (_VIEWERS, viewers)):
            if people and not any(problem.path.startswith(SECRETS_FILE) for problem in problems):
                message = f"is for people whom an OpenID provider signs in, and {SECRETS_FILE} has no section [auth]"
                _note(problems, name, message)
    elif not (operators or viewers or {_OPERATORS, _VIEWERS} & {problem.path for problem in problems}):
        message = f"nobody could come in: name who may, by e-mail address or @domain, or {_VIEWERS}=* for all"
        _note(problems, _OPERATORS, message)
    return DashboardSettings(
        **given(session_s=session_s),
        password=password,
        viewer_password=viewer_password,
        oidc=oidc,
        operators=operators,
        viewers=viewers,
    )


def _note(problems: list[Problem], path: str, message: str) -> None:
    problems.append(Problem(path=path, message=message))


def _password(name: str, variables: Mapping[str, str], problems: list[Problem]) -> PasswordHash | None:
    text = variables.get(name)
    if text is None:
        return None
    if looks_like_a_hash(text):
        try:
            return PasswordHash.parse(text)
        except ValueError as error:
            _note(problems, name, f"is not a hash that can be read: {error}")
            return None
    if not MIN_PASSWORD_CHARS <= len(text) <= MAX_PASSWORD_CHARS:
        message = f"expected {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS} characters, or what `python -m fallback password` prints"
        _note(problems, name, message)
        return None
    return PasswordHash.of(text, salt=_salt(name, variables.get("SESSION_SECRET")))


def _salt(name: str, session_secret: str | None) -> bytes | None:
    """Return a salt that is the same after a restart, so that sessions are still good then; None without a secret."""
    if session_secret is None:
        return None
    return hashlib.sha256(f"fallback.password\0{name}\0{session_secret}".encode()).digest()[:16]


def _are_the_same(
    variables: Mapping[str, str], password: PasswordHash | None, viewer_password: PasswordHash | None
) -> bool:
    if password is None or viewer_password is None:
        return False
    if not looks_like_a_hash(variables[_VIEWER_PASSWORD]):
        return password.matches(variables[_VIEWER_PASSWORD])
    if not looks_like_a_hash(variables[_PASSWORD]):
        return viewer_password.matches(variables[_PASSWORD])
    return password == viewer_password


def _people(name: str, variables: Mapping[str, str], problems: list[Problem]) -> People:
    try:
        return People.parse(variables.get(name, ""))
    except ValueError as error:
        _note(problems, name, str(error))
        return People()


def _oidc(file: Path, variables: Mapping[str, str], problems: list[Problem]) -> OidcSettings | None:
    section = _auth_section(file, problems)
    if section is None:
        return None
    noted = len(problems)
    redirect = _REDIRECT.fullmatch(_text(section, "redirect_uri", problems))
    if len(problems) == noted and redirect is None:
        message = "expected the address of the dashboard and /oauth2callback, such as https://llm.example.com/oauth2callback"
        _note(problems, f"{_AUTH}.redirect_uri", message)
    secret = section.get("cookie_secret") or variables.get("SESSION_SECRET")
    if not isinstance(secret, str) or len(secret) < 16:
        message = "expected at least 16 characters, there or in SESSION_SECRET in .env"
        _note(problems, f"{_AUTH}.cookie_secret", message)
    providers = _providers(section, problems)
    if len(problems) > noted or redirect is None:
        return None
    return OidcSettings(
        providers=providers,
        origin=redirect["origin"],
        cookie_secret=Secret(str(secret)),
        section={**section, "cookie_secret": secret},
    )


def _auth_section(file: Path, problems: list[Problem]) -> dict[str, Any] | None:
    try:
        with file.open("rb") as opened:
            tree = tomllib.loads(opened.read(MAX_SECRETS_BYTES).decode("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = "it is not TOML" if isinstance(error, ValueError) else type(error).__name__
        _note(problems, SECRETS_FILE, f"cannot be read ({reason})")
        return None
    section = tree.get("auth")
    if section is not None and not isinstance(section, dict):
        _note(problems, _AUTH, "expected a section: [auth]")
        return None
    return section


def _providers(section: Mapping[str, Any], problems: list[Problem]) -> dict[str, str]:
    """Return the OpenID providers of the section with their titles: the section itself, and those inside it."""
    entries: dict[str, Mapping[str, Any]] = {
        name: entry for name, entry in section.items() if isinstance(entry, dict) and name != "client_kwargs"
    }
    if any(key in section for key in _NEEDED):
        entries = {"default": section, **entries}
    if not entries:
        _note(problems, _AUTH, f"names no OpenID provider: {', '.join(_NEEDED)} are needed")
    for name, entry in entries.items():
        if not _PROVIDER_NAME.fullmatch(name):
            _note(problems, _AUTH, "the name of a provider holds small letters, digits and - alone")
            continue
        for key in _NEEDED:
            _text(entry, key, problems, "" if name == "default" else f".{name}")
    return {name: _TITLES.get(name, name.capitalize()) for name in entries}


def _text(section: Mapping[str, Any], key: str, problems: list[Problem], inside: str = "") -> str:
    value = section.get(key)
    if not isinstance(value, str) or not value.strip():
        _note(problems, f"{_AUTH}{inside}.{key}", "expected a text")
        return ""
    return value

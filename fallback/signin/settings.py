"""What the configuration says about the dashboard's door. `config` makes these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fallback.providers.settings import Secret
from fallback.signin.passwords import PasswordHash
from fallback.signin.people import People

__all__ = ["DashboardSettings", "OidcSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcSettings:
    """The section [auth] of .streamlit/secrets.toml, as Streamlit's st.login takes it."""

    providers: Mapping[str, str]
    """What the sign-in page calls each OpenID provider, by its name in the section; `default` is the section's own."""
    origin: str
    """Scheme and host of `redirect_uri`: under these the dashboard is reached."""
    cookie_secret: Secret
    section: Mapping[str, Any] = field(repr=False)
    """The whole section, with keys in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardSettings:
    """Who may use the dashboard."""

    session_s: float = 43_200.0
    """How long a sign-in lasts."""
    password: PasswordHash | None = None
    """Whoever knows it is an operator."""
    viewer_password: PasswordHash | None = None
    oidc: OidcSettings | None = None
    operators: People = field(default_factory=People)
    """Of those whom the OpenID provider signs in, who is an operator."""
    viewers: People = field(default_factory=People)

    @property
    def guarded(self) -> bool:
        """Whether anybody has to sign in."""
        return self.password is not None or self.oidc is not None

"""Who may use the dashboard: passwords, sessions, attempts, lists of people. docs/access.md describes it.

Theory of operation: a visitor is an operator or a viewer. `passwords` turns what somebody types into a role, `people` what an
OpenID provider says about somebody; `sessions` turns a role into a text for a cookie and back; `attempts` says who has to wait
before the next guess. `Door` holds all of it for one running program and answers one question: whose cookies are these?

What may not live here: HTTP, pages, Streamlit (`api.doorway` and `ui.visitors` stand at the door), reading the configuration.
"""

from fallback.signin.attempts import Attempts
from fallback.signin.door import COOKIE, OIDC_COOKIE, Door, Stranger
from fallback.signin.passwords import PasswordHash
from fallback.signin.people import People
from fallback.signin.settings import DashboardSettings, OidcSettings
from fallback.signin.visitor import ANYBODY, Role, Visitor

__all__ = [
    "ANYBODY",
    "COOKIE",
    "OIDC_COOKIE",
    "Attempts",
    "DashboardSettings",
    "Door",
    "OidcSettings",
    "PasswordHash",
    "People",
    "Role",
    "Stranger",
    "Visitor",
]

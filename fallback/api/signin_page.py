"""The pages at the door: plain HTML that needs nothing else, neither a script nor another file."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import cache
from html import escape
from pathlib import Path
from urllib.parse import quote

__all__ = ["PAGE_HEADERS", "leaving_page", "sign_in_page", "stranger_page"]

PAGE_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    # Not no-referrer: with that a browser hides, from us too, which page a form was sent from.
    (b"referrer-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
    (b"x-robots-tag", b"noindex"),
)
"""What these pages are sent with. Stricter than the dashboard's, which Streamlit's scripts have to run under."""

# The colours are those of .streamlit/config.toml.
_STYLE = """
:root { color-scheme: light dark; --back: #f3f4f8; --card: #ffffff; --text: #10131a; --gray: #5a6170;
  --line: #8a91a0; --edge: #d9dce5; --button: #4f46e5; --on-button: #ffffff; --bad: #b42318; --bad-back: #fdecea; }
@media (prefers-color-scheme: dark) { :root { --back: #1b2130; --card: #262e42; --text: #eef1f7; --gray: #a7b0c2;
  --line: #7c869c; --edge: #3a4359; --button: #787ef8; --on-button: #10131a; --bad: #ff9d94; --bad-back: #43252a; } }
* { box-sizing: border-box; }
body { margin: 0; min-height: 100vh; min-height: 100dvh; display: grid; place-items: center; padding: 1rem;
  background: var(--back); color: var(--text); font: 1rem/1.5 "Source Sans", system-ui, sans-serif; }
main { width: 100%; max-width: 24rem; padding: 2rem; background: var(--card); border: 1px solid var(--edge);
  border-radius: 0.75rem; }
img { display: block; width: 3rem; height: 3rem; }
h1 { margin: 1rem 0 0.25rem; font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere; }
p { margin: 0 0 1.25rem; color: var(--gray); overflow-wrap: anywhere; }
p.bad { padding: 0.5rem 0.75rem; border-radius: 0.5rem; background: var(--bad-back); color: var(--bad); }
label { display: block; margin-bottom: 0.25rem; font-weight: 600; }
input, button, a.button { width: 100%; min-height: 2.75rem; padding: 0.5rem 0.75rem; border-radius: 0.5rem;
  font: inherit; }
input { border: 1px solid var(--line); background: var(--card); color: var(--text); }
button, a.button { display: block; margin-top: 1rem; border: 1px solid var(--button); background: var(--button);
  color: var(--on-button); font-weight: 600; text-align: center; text-decoration: none; cursor: pointer; }
a.button.second { background: none; border-color: var(--line); color: var(--text); }
:is(input, button, a.button):focus-visible { outline: 3px solid var(--button); outline-offset: 2px; }
"""


def sign_in_page(
    *, password: bool, providers: Mapping[str, str], target: str, problem: str | None = None
) -> bytes:
    """Return the page that asks who is there.

    `password`: whether one opens the door. `providers` are the titles of OpenID providers by their names. `target` is
    where the browser goes afterwards, and `problem` what went wrong the last time.
    """
    parts = ["<h1>Sign in</h1>", "<p>to the dashboard of the LLM Fallback System</p>"]
    if problem is not None:
        parts.append(f'<p class="bad" id="problem" role="alert">{escape(problem)}</p>')
    if password:
        about = ' aria-invalid="true" aria-describedby="problem"' if problem is not None else ""
        parts.append(
            '<form method="post" action="/sign-in">'
            f'<input type="hidden" name="next" value="{escape(target)}">'
            '<label for="password">Password</label>'
            '<input id="password" name="password" type="password" autocomplete="current-password" maxlength="1024" '
            f"required autofocus{about}>"
            "<button>Sign in</button></form>"
        )
    for name, title in providers.items():
        look = "button second" if password else "button"
        address = f"/sign-in/with/{quote(name)}?next={quote(target, safe='/')}"
        parts.append(f'<a class="{look}" href="{escape(address)}">Sign in with {escape(title)}</a>')
    return _page("Sign in", "".join(parts))


def stranger_page(who: str) -> bytes:
    """Return the page for somebody whom an OpenID provider signed in, and who may not come in all the same."""
    return _page(
        "No access",
        "<h1>No access</h1>"
        f"<p>You are signed in as {escape(who)}, and nobody has let this account use the dashboard. Whoever runs the program can, "
        "in DASHBOARD_OPERATORS or DASHBOARD_VIEWERS.</p>"
        '<form method="post" action="/sign-out"><button>Sign out</button></form>',
    )


def leaving_page(location: str) -> bytes:
    """Return the page that goes on to `location`, where the OpenID provider signs somebody out."""
    address = escape(location)
    return _page(
        "Signed out",
        f'<h1>Signed out</h1><p>of the dashboard, and now of your account.</p><a class="button" href="{address}">Go on</a>',
        head=f'<meta http-equiv="refresh" content="0; url={address}">',
    )


def _page(title: str, body: str, head: str = "") -> bytes:
    icon = _icon()
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"{head}<title>{escape(title)} · LLM Fallback</title>"
        f'<link rel="icon" href="{icon}"><style>{_STYLE}</style></head>'
        f'<body><main><img src="{icon}" alt="">{body}</main></body></html>'
    ).encode()


@cache
def _icon() -> str:
    picture = (Path(__file__).resolve().parents[1] / "ui" / "icon.png").read_bytes()
    return f"data:image/png;base64,{base64.b64encode(picture).decode('ascii')}"

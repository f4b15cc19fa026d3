"""providers.yaml and the environment, turned into `Settings`.

Theory of operation: `load` reads the file once from top to bottom, notes every problem with its path, and raises them
together; only a file without one becomes settings. `files` turns files into plain values, `section` reads one mapping
and notes what is wrong, `providers` knows what a provider is, `api` who may use the HTTP API, `dashboard` who the dashboard,
`log` what the process is called in its log and what logs are looked at, `state` where state is shared, `telemetry` where traces
and metrics go. Nothing here opens a connection, looks at model weights
or changes the environment. docs/configuration.md describes every key for the people who write them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from fallback.config.api import (
    API_NUMBERS,
    ApiKey,
    ApiSettings,
    read_allowed_hosts,
    read_api,
    read_api_keys,
)
from fallback.config.dashboard import DASHBOARD_KEYS, SECRETS_FILE, read_dashboard
from fallback.config.files import read_variables, read_yaml
from fallback.config.log import read_instance, read_sources
from fallback.config.providers import MODEL_KEYS, PROVIDER_KEYS, TIMEOUT_KEYS, check_name, read_providers
from fallback.config.section import MAX_SHOWN_CHARS, Number, Section, given, nearest, resolved_path, shown
from fallback.config.state import StateServer, read_state_server
from fallback.config.telemetry import TelemetrySettings, read_telemetry
from fallback.core.errors import ConfigError, Problem
from fallback.core.policy import RoutingPolicy
from fallback.providers.settings import ProviderSettings, Secret
from fallback.signin.settings import DashboardSettings

__all__ = [
    "ACCEPTED_KEYS",
    "ApiKey",
    "ApiSettings",
    "DashboardSettings",
    "LogSettings",
    "Settings",
    "StateServer",
    "TelemetrySettings",
    "load",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """Where usage.log lives and what goes into it."""

    folder: Path
    """Absolute; made when the first line is written."""
    content: bool = False
    """Whether prompts and answers are written too."""
    rotate_bytes: int = 64 * 1024 * 1024
    """A new file is begun where the current one has grown larger."""
    instance: str | None = None
    """What this process is called in every line; None: nothing. `load` takes INSTANCE_NAME, else the name of the machine."""
    sources: tuple[str, ...] = field(default=(), repr=False)
    """USAGE_LOGS: what is looked at; none: what is in `folder`. An address may be a signed one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that providers.yaml and the environment say."""

    providers: tuple[ProviderSettings, ...]
    """By priority, lowest number first; in the file's order among equals."""
    routing: RoutingPolicy
    log: LogSettings
    source: Path
    """The file that was read, absolute."""
    session_secret: Secret | None = None
    """SESSION_SECRET; None where it is not set."""
    api: ApiSettings = field(default_factory=ApiSettings)
    """The limits of the HTTP server."""
    api_keys: tuple[ApiKey, ...] = ()
    """API_KEYS; without any the API asks for none."""
    allowed_hosts: tuple[str, ...] = ()
    """ALLOWED_HOSTS: the names under which the program is reached, beside localhost and addresses."""
    dashboard: DashboardSettings = field(default_factory=DashboardSettings)
    """Who may use the dashboard; by default whoever reaches it."""
    telemetry: TelemetrySettings | None = None
    """How traces and metrics are exported; None: they are not."""
    state: StateServer | None = None
    """STATE_URL: where switches and cooldowns are shared; None: in a file beside the usage log."""
    banner: str | None = None
    """What every page says above everything else. Not in the file: only the demo sets one."""

    def of_worker(self, number: int) -> Settings:
        """Return the settings of one of several processes that write the same log: they differ in the name of the instance."""
        name = self.log.instance
        return self if name is None else replace(self, log=replace(self.log, instance=f"{name}-{number}"))


VARIABLES = ".env or the environment"

_SECONDS = Number(low=0, high=86_400, above=True)
_ROUTING: Final[Mapping[str, Number | tuple[str, ...]]] = MappingProxyType(
    {
        "deadline_s": _SECONDS,
        "connect_timeout_s": _SECONDS,
        "first_token_timeout_s": _SECONDS,
        "idle_timeout_s": _SECONDS,
        "retries": Number(low=0, high=10, whole=True),
        "retry_delay_s": Number(low=0, high=60),
        "max_retry_wait_s": Number(low=0, high=3_600),
        "on_stream_break": ("continue", "error"),
        "cooldown_s": _SECONDS,
        "strikes": Number(low=1, high=1_000, whole=True),
        "quota_recheck_s": _SECONDS,
        "content_policy": ("error", "fail_over"),
        "max_response_bytes": Number(low=1024, high=1024**3, whole=True),
    }
)

ACCEPTED_KEYS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "": ("providers", "routing", "routes", "log", "log_content", "api", "dashboard"),
        "providers": PROVIDER_KEYS,
        "fallback_models": MODEL_KEYS,
        "timeouts": TIMEOUT_KEYS,
        "routing": tuple(_ROUTING),
        "log": ("folder", "rotate_bytes"),
        "api": tuple(API_NUMBERS),
        "dashboard": DASHBOARD_KEYS,
    }
)
"""Every key of providers.yaml by the block it stands in; "" is the top level. In `routes` and `headers` names are free."""


def load(path: str | Path = "providers.yaml", *, environ: Mapping[str, str] | None = None) -> Settings:
    """Return the settings in the file at `path`, with the keys of `environ` and of the .env file beside it.

    `environ` defaults to the process's environment, wins over .env, and is never changed; an empty value counts as not
    set. Raises ConfigError with every problem there is.
    """
    file = Path(path)
    problems: list[Problem] = []
    outside: list[Problem] = []
    tree = read_yaml(file, str(path), problems)
    variables = read_variables(file.parent / ".env", os.environ if environ is None else environ, outside)
    if not isinstance(tree, dict):
        found = "an empty file" if tree is None else shown(tree)
        problems.append(
            Problem(path="", message=f"expected a mapping that begins with `providers:`, got {found}")
        )
        raise ConfigError(problems + _placed(outside), source=str(path))
    settings = _settings(tree, file.absolute(), variables, problems, outside)
    if problems or outside:
        raise ConfigError(problems + _placed(outside), source=str(path))
    return settings


def _placed(outside: Sequence[Problem]) -> list[Problem]:
    """Return the problems of the variables and of the secrets, each with where it is."""
    return [
        replace(problem, source=SECRETS_FILE if problem.path.startswith(SECRETS_FILE) else VARIABLES)
        for problem in outside
    ]


def _settings(
    tree: dict[object, object],
    file: Path,
    variables: Mapping[str, str],
    problems: list[Problem],
    outside: list[Problem],
) -> Settings:
    """Return the settings; where `problems` were noted, or those `outside` of the file, wrong values are left out."""
    advice = [
        f"{block}.{key}" for block in ("routing", "log", "api", "dashboard") for key in ACCEPTED_KEYS[block]
    ]
    top = Section(tree, "", ACCEPTED_KEYS[""], problems, advice)
    entries = top.items("providers", of="providers")
    if not entries and (top.get("providers") is None or top.get("providers") == []):
        top.note("providers", "expected a list of at least one provider, got nothing")
    providers = read_providers(entries, file.parent, variables, problems, outside)
    return Settings(
        providers=tuple(sorted(providers, key=lambda provider: provider.priority)),
        routing=_routing(top, [provider.name for provider in providers]),
        log=_log(top, file.parent, variables, outside),
        source=file,
        session_secret=Secret(variables["SESSION_SECRET"]) if "SESSION_SECRET" in variables else None,
        api=read_api(top),
        api_keys=read_api_keys(variables, file.parent, outside),
        allowed_hosts=read_allowed_hosts(variables, outside),
        dashboard=read_dashboard(top, variables, file.parent, outside),
        telemetry=read_telemetry(variables, outside),
        state=read_state_server(variables, outside),
    )


def _log(top: Section, folder: Path, variables: Mapping[str, str], outside: list[Problem]) -> LogSettings:
    block = top.section("log", ACCEPTED_KEYS["log"])
    rotate_bytes = block.whole("rotate_bytes", Number(low=4096, high=1024**4, whole=True))
    return LogSettings(
        folder=resolved_path(block, "folder", folder) or folder / "logs",
        instance=read_instance(variables, outside),
        sources=read_sources(variables, folder, outside),
        **given(content=top.flag("log_content"), rotate_bytes=rotate_bytes),
    )


def _routing(top: Section, names: list[str]) -> RoutingPolicy:
    block = top.section("routing", ACCEPTED_KEYS["routing"])
    values: dict[str, object] = {}
    for key, accepted in _ROUTING.items():
        match accepted:
            case Number(whole=True):
                values[key] = block.whole(key, accepted)
            case Number():
                values[key] = block.number(key, accepted)
            case _:
                values[key] = block.choice(key, accepted)
    return RoutingPolicy(routes=_routes(top, names), **given(**values))


def _routes(top: Section, names: list[str]) -> dict[str, tuple[str, ...]]:
    raw = top.get("routes")
    known = tuple(key for key in raw if isinstance(key, str)) if isinstance(raw, dict) else ()
    block = Section(raw, "routes", known, top.problems)
    routes: dict[str, tuple[str, ...]] = {}
    for route in known:
        check_name(block, route, route)
        if route in names:
            block.note(route, "a provider has this name; choose another one for the route")
        members = block.items(route, of="provider names")
        if not members and block.get(route) in (None, []):
            block.note(route, "expected a list of at least one provider name, got nothing")
        for index, member in enumerate(members):
            complaint = _member_complaint(member, members[:index], names)
            if complaint:
                top.problems.append(Problem(path=f"{block.where(route)}[{index}]", message=complaint))
        routes[route] = tuple(member for member in members if isinstance(member, str))
    return routes


def _showable(name: str) -> bool:
    return len(name) <= MAX_SHOWN_CHARS and name.isprintable()


def _member_complaint(member: object, before: list[object], names: list[str]) -> str | None:
    if not isinstance(member, str):
        return f"expected the name of a provider, got {shown(member)}"
    if member not in names:
        return f"unknown provider {shown(member)}{nearest(member, filter(_showable, names))}"
    return f"{shown(member)} stands in this route already" if member in before else None

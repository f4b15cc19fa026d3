"""The `providers:` list of providers.yaml: what each entry means, and where its key comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, cast, get_args
from urllib.parse import SplitResult, parse_qsl, urlsplit

from fallback.config.section import (
    KEY_BELONGS_IN_ENV,
    Number,
    Section,
    given,
    is_literal_key,
    resolved_path,
    shown,
)
from fallback.core.errors import Problem
from fallback.core.hosts import is_loopback
from fallback.providers.settings import ModelSettings, Price, ProviderSettings, ProviderType, Secret

__all__ = ["MODEL_KEYS", "PROVIDER_KEYS", "TIMEOUT_KEYS", "check_name", "read_providers"]

PROVIDER_KEYS: Final = (
    *("name", "type", "endpoint", "model", "fallback_models", "priority", "enabled", "api_key_env"),
    *(
        "temperature",
        "max_tokens",
        "context_window",
        "input_usd_per_1m",
        "output_usd_per_1m",
        "cost_per_1k_tokens",
    ),
    *("supports_prefill", "stream_upstream", "timeouts", "headers", "allow_http", "model_path"),
)
MODEL_KEYS: Final = ("model", "context_window", "input_usd_per_1m", "output_usd_per_1m")
TIMEOUT_KEYS: Final = ("first_token_s", "response_s")

_TOKENS = Number(low=1, high=1_000_000_000, whole=True)
_SECONDS = Number(low=0, high=86_400, above=True)
_USD = Number(low=0, high=1_000_000)
_TEMPERATURE = Number(low=0, high=2)
_PRIORITY = Number(low=-1_000_000, high=1_000_000, whole=True)

_TYPES: Final[tuple[str, ...]] = get_args(ProviderType)
_TYPE_OF_HOST: Final[Mapping[str, ProviderType]] = MappingProxyType(
    {"api.groq.com": "groq", "api.together.xyz": "together", "api.together.ai": "together"}
)
_OPENAI_HOST = "api.openai.com"
_NOT_FOR_LOCAL = ("endpoint", "api_key_env", "headers", "allow_http")

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# Capitals only: most keys would pass as a variable's name otherwise, and this name is shown to people.
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]{1,1024}")
_URL = re.compile(r"[\x21-\x5b\x5d-\x7e]{1,2048}")
_API_KEY = re.compile(r"[\x21\x23-\x26\x28-\x7e]+")
_OUR_HEADERS = frozenset(
    {"accept-encoding", "connection", "content-length", "content-type", "host", "transfer-encoding"}
)


def check_name(section: Section, key: str, name: str) -> None:
    """Note what is wrong with the name of a provider or a route."""
    if not _NAME.fullmatch(name):
        section.note(key, f"expected 1 to 64 letters, digits or any of _ . - as a name, got {shown(name)}")
    elif name.lower() == "auto":
        section.note(key, '"auto" stands for the usual order of all providers; choose another name')


def read_providers(
    entries: Sequence[object],
    folder: Path,
    variables: Mapping[str, str],
    problems: list[Problem],
    outside: list[Problem],
) -> list[ProviderSettings]:
    """Return the providers in the file's order; paths in them are relative to `folder`, keys come out of `variables`.

    What is wrong with a key is noted `outside`.
    """
    keys = _Keys(variables=variables, problems=outside)
    providers: list[ProviderSettings] = []
    first_of: dict[str, str] = {}
    for index, raw in enumerate(entries):
        path = f"providers[{index}]"
        if not isinstance(raw, dict):
            problems.append(Problem(path=path, message=f"expected a mapping (key: value), got {shown(raw)}"))
            continue
        section = Section(raw, path, PROVIDER_KEYS, problems, [f"timeouts.{key}" for key in TIMEOUT_KEYS])
        name = _required(section, "name")
        if name is not None:
            check_name(section, "name", name)
            if name in first_of:
                section.note("name", f"{first_of[name]} has the name {shown(name)} already")
            first_of.setdefault(name, path)
        providers.append(_provider(section, name or "", index + 1, folder, keys))
    return providers


def _required(section: Section, key: str) -> str | None:
    if not section.has(key):
        section.note(key, "missing")
    return section.text(key, limit=256)


def _provider(section: Section, name: str, place: int, folder: Path, keys: _Keys) -> ProviderSettings:
    stated = section.choice("type", _TYPES)
    endpoint = _endpoint(section)
    host = (endpoint.hostname or "").rstrip(".") if endpoint else ""
    kind = cast("ProviderType", stated) if stated else _inferred_type(section, host)
    if kind == "local":
        for key in _NOT_FOR_LOCAL:
            if section.has(key):
                section.note(key, "means nothing for the embedded model (type: local); remove it")
    else:
        if not section.has("endpoint"):
            section.note("endpoint", "missing")
        if section.has("model_path"):
            section.note("model_path", "is for the embedded model only (type: local)")
    variable_names = _key_variables(section, name, kind, stated is not None, host)
    timeouts = section.section("timeouts", TIMEOUT_KEYS)
    model_path = resolved_path(section, "model_path", folder)
    return ProviderSettings(
        name=name,
        type=kind,
        endpoint=endpoint.geturl() if endpoint else "",
        models=_models(section),
        api_key=keys.find(variable_names),
        needs_key=kind != "local" and not is_loopback(host),
        key_variables=variable_names,
        headers=_headers(section),
        temperature=section.number("temperature", _TEMPERATURE),
        max_tokens=section.whole("max_tokens", _TOKENS),
        supports_prefill=section.flag("supports_prefill"),
        first_token_timeout_s=timeouts.number("first_token_s", _SECONDS),
        model_path=str(model_path) if model_path else None,
        **{"priority": place}
        | given(
            priority=section.whole("priority", _PRIORITY),
            enabled=section.flag("enabled"),
            stream_upstream=section.flag("stream_upstream"),
            response_timeout_s=timeouts.number("response_s", _SECONDS),
        ),
    )


def _inferred_type(section: Section, host: str) -> ProviderType:
    if section.has("model_path") and not section.has("endpoint"):
        return "local"
    return _TYPE_OF_HOST.get(host, "openai")


def _models(section: Section) -> tuple[ModelSettings, ...]:
    model = _required(section, "model")
    models = [
        ModelSettings(
            name=model or "",
            context_window=section.whole("context_window", _TOKENS),
            price=_provider_price(section),
        )
    ]
    for index, raw in enumerate(section.items("fallback_models", of="models")):
        path = f"{section.where('fallback_models')}[{index}]"
        # A bare text is the short form of a mapping with nothing but `model`.
        entry = Section({"model": raw} if isinstance(raw, str) else raw, path, MODEL_KEYS, section.problems)
        if not isinstance(raw, str | dict):
            if raw is None:
                section.problems.append(Problem(path=path, message="expected a model, got nothing"))
            continue
        name = _required(entry, "model")
        if name is not None and any(name == known.name for known in models):
            section.problems.append(Problem(path=path, message="this provider names the same model twice"))
        window = entry.whole("context_window", _TOKENS)
        models.append(ModelSettings(name=name or "", context_window=window, price=_price(entry)))
    return tuple(models)


def _provider_price(section: Section) -> Price | None:
    price = _price(section)
    per_1k = section.number("cost_per_1k_tokens", _USD)
    if per_1k is None:
        return price
    if section.has("input_usd_per_1m") or section.has("output_usd_per_1m"):
        section.note(
            "cost_per_1k_tokens", "give either this or input_usd_per_1m and output_usd_per_1m, not both"
        )
    return Price(input_usd_per_1m=per_1k * 1000, output_usd_per_1m=per_1k * 1000)


def _price(section: Section) -> Price | None:
    one, other = "input_usd_per_1m", "output_usd_per_1m"
    paid_in, paid_out = section.number(one, _USD), section.number(other, _USD)
    for key, partner in ((one, other), (other, one)):
        if section.has(partner) and not section.has(key):
            section.note(key, f"missing; {partner} is given, and a cost needs both")
    if paid_in is None or paid_out is None:
        return None
    return Price(input_usd_per_1m=paid_in, output_usd_per_1m=paid_out)


def _endpoint(section: Section) -> SplitResult | None:
    """Return the endpoint's parts. No message quotes the URL: people paste URLs with a key inside."""
    text = section.text("endpoint", limit=2048)
    allow_http = section.flag("allow_http")
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if not _URL.fullmatch(text) or parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        section.note("endpoint", "expected a URL such as https://api.example.com/v1/chat/completions")
        return None
    if parts.username is not None or parts.password is not None:
        section.note("endpoint", f"holds a user name or password before the @; {KEY_BELONGS_IN_ENV}")
    if any(is_literal_key(name) for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
        section.note("endpoint", f"holds a key behind the question mark; {KEY_BELONGS_IN_ENV}")
    if parts.fragment:
        section.note("endpoint", "remove what stands behind the #: it is never sent")
    if parts.scheme == "http" and not allow_http and not is_loopback(parts.hostname):
        section.note(
            "endpoint",
            "http would send the key and every prompt unencrypted; use https, or say `allow_http: true` for a server"
            " on a network of your own",
        )
    return parts


def _headers(section: Section) -> dict[str, str]:
    raw = section.get("headers")
    known = tuple(name for name in raw if isinstance(name, str)) if isinstance(raw, dict) else ()
    block = Section(raw, section.where("headers"), known, section.problems)
    headers: dict[str, str] = {}
    for name in known:
        value = block.get(name)
        lower = name.lower()
        if not _HEADER_NAME.fullmatch(name):
            block.note(name, "this is no name of an HTTP header")
        elif is_literal_key(name) or lower == "cookie":
            block.note(name, KEY_BELONGS_IN_ENV)
        elif lower in _OUR_HEADERS:
            block.note(name, "is set by the program; remove it")
        elif any(lower == other.lower() for other in headers):
            block.note(name, "stands here twice: names of headers ignore case")
        elif not isinstance(value, str):
            block.note(name, f"expected a text, got {shown(value)}; put it in quotes")
        elif not _HEADER_VALUE.fullmatch(value) or value != value.strip():
            block.note(name, "expected 1 to 1024 printable ASCII characters without space around them")
        else:
            headers[name] = value
    return headers


def _key_variables(
    section: Section, name: str, kind: ProviderType, stated: bool, host: str
) -> tuple[str, ...]:
    """Return the environment variables that may hold the key, in the order in which they are looked at."""
    if kind == "local":
        return ()
    names: list[str] = []
    stated_variable = section.get("api_key_env")
    if stated_variable is not None:
        if isinstance(stated_variable, str) and _VARIABLE.fullmatch(stated_variable):
            names.append(stated_variable)
        else:
            section.note(
                "api_key_env",
                "expected the name of an environment variable in capitals, such as GROQ_API_KEY; the key itself goes"
                " into .env",
            )
    names.append(_variable(name))
    # OPENAI_API_KEY must not travel to every server that merely speaks the same dialect.
    if kind != "openai" or stated or host == _OPENAI_HOST:
        names.append(_variable(kind))
    return tuple(dict.fromkeys(names))


def _variable(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", name.upper()) + "_API_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Keys:
    """The keys in the environment; each unusable one is noted once, however many providers name it."""

    variables: Mapping[str, str]
    problems: list[Problem]
    noted: set[str] = field(default_factory=set)

    def find(self, names: Sequence[str]) -> Secret | None:
        """Return the key in the first of the variables `names` that is set."""
        variable = next((name for name in names if self.variables.get(name)), None)
        if variable is None:
            return None
        value = self.variables[variable]
        if _API_KEY.fullmatch(value):
            return Secret(value)
        if variable not in self.noted:
            self.noted.add(variable)
            message = (
                "the key holds a space, a quotation mark or another character that no key has; copy it again"
            )
            self.problems.append(Problem(path=variable, message=message))
        return None

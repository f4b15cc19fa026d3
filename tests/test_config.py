"""providers.yaml and the environment: what is accepted, what is refused, and what a message may show."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fallback.config import ACCEPTED_KEYS, LogSettings, Settings, load
from fallback.core.errors import ConfigError
from fallback.core.policy import RoutingPolicy
from fallback.providers.settings import ModelSettings, Price, ProviderSettings, Secret

ROOT = Path(__file__).parent.parent
GROQ = "https://api.groq.com/openai/v1/chat/completions"
TOGETHER = "https://api.together.xyz/v1/chat/completions"
ELSEWHERE = "https://llm.example.com/v1/chat/completions"
HIDDEN = "hidden-value-not-a-real-key"


def provider(odd: Mapping[Any, object] | None = None, **changes: object) -> dict[Any, object]:
    """Return an entry that is right but for `changes`; ... takes a key away, `odd` holds keys that are no words."""
    entry = {"name": "groq_llama", "endpoint": GROQ, "model": "some-model", **changes} | dict(odd or {})
    return {key: value for key, value in entry.items() if value is not ...}


def write(folder: Path, tree: object, dotenv: str | None = None) -> Path:
    file = folder / "providers.yaml"
    file.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree), encoding="utf-8")
    if dotenv is not None:
        (folder / ".env").write_text(dotenv, encoding="utf-8")
    return file


def read(
    folder: Path, tree: object, environ: Mapping[str, str] | None = None, dotenv: str | None = None
) -> Settings:
    return load(write(folder, tree, dotenv), environ=environ or {})


def read_one(folder: Path, environ: Mapping[str, str] | None = None, **changes: Any) -> ProviderSettings:
    return read(folder, {"providers": [provider(**changes)]}, environ).providers[0]


def problems(folder: Path, tree: object, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(folder, tree, environ)
    return [str(problem) for problem in caught.value.problems]


def problems_of_one(folder: Path, environ: Mapping[str, str] | None = None, **changes: Any) -> list[str]:
    return problems(folder, {"providers": [provider(**changes)]}, environ)


class TestShippedFiles:
    def test_the_shipped_file_loads_with_the_original_providers_and_the_embedded_model_last(self) -> None:
        settings = load(ROOT / "providers.yaml", environ={})
        assert [(p.name, p.type, p.priority, p.temperature) for p in settings.providers] == [
            ("groq_llama", "groq", 1, 0.7),
            ("together_llama", "together", 2, 0.7),
            ("groq_mixtral", "groq", 3, 0.7),
            ("local_smollm", "local", 4, 0.2),
        ]
        assert [[model.name for model in p.models] for p in settings.providers] == [
            ["llama-3.1-8b-instant", "openai/gpt-oss-20b"],
            ["meta-llama/Llama-3-70b-chat-hf", "openai/gpt-oss-120b"],
            ["mixtral-8x7b-32768", "openai/gpt-oss-120b"],
            ["SmolLM2-135M-Instruct"],
        ]
        assert [p.endpoint for p in settings.providers] == [GROQ, TOGETHER, GROQ, ""]
        assert settings.providers[3].models[0].price == Price(input_usd_per_1m=0, output_usd_per_1m=0)

    def test_the_shipped_routing_block_writes_out_every_default(self) -> None:
        written = yaml.safe_load((ROOT / "providers.yaml").read_text(encoding="utf-8"))["routing"]
        assert set(written) == set(ACCEPTED_KEYS["routing"])
        assert {key: getattr(RoutingPolicy(), key) for key in written} == written
        assert load(ROOT / "providers.yaml", environ={}).routing == RoutingPolicy()

    def test_the_example_environment_holds_names_and_no_values(self) -> None:
        lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
        assignments = [line for line in lines if line and not line.startswith("#")]
        assert assignments == [
            "GROQ_API_KEY=",
            "TOGETHER_LLAMA_API_KEY=",
            "SESSION_SECRET=",
            "API_KEYS=",
            "ALLOWED_HOSTS=",
            "FORWARDED_ALLOW_IPS=",
            "DASHBOARD_PASSWORD=",
            "DASHBOARD_VIEWER_PASSWORD=",
            "INSTANCE_NAME=",
            "USAGE_LOGS=",
            "OTEL_EXPORTER_OTLP_ENDPOINT=",
            "STATE_URL=",
            "STATE_PREFIX=",
        ]

    def test_every_field_of_the_routing_policy_can_be_set(self) -> None:
        assert set(ACCEPTED_KEYS["routing"]) == {item.name for item in fields(RoutingPolicy)} - {"routes"}

    @pytest.mark.parametrize("block", ACCEPTED_KEYS)
    def test_the_documentation_has_a_table_row_for_every_key_of(self, block: str) -> None:
        headings = {
            "": "## Top level",
            "providers": "## Providers",
            "fallback_models": "### Fallback models",
            "timeouts": "### Timeouts",
            "routing": "## Routing",
            "log": "## Log",
            "api": "## Limits of the HTTP server",
            "dashboard": "## Dashboard",
        }
        text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
        chapter = re.split(r"^#", text.split(f"\n{headings[block]}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[
            0
        ]
        assert set(re.findall(r"^\| `(\w+)` \|", chapter, re.MULTILINE)) == set(ACCEPTED_KEYS[block])

    def test_the_documentation_names_every_routing_default(self) -> None:
        text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
        for key in ACCEPTED_KEYS["routing"]:
            match = re.search(rf"^\| `{key}` \| `([^`]+)` \|", text, re.MULTILINE)
            assert match, key
            assert yaml.safe_load(match[1]) == getattr(RoutingPolicy(), key), key


class TestProviders:
    def test_every_key_reaches_the_settings(self, tmp_path: Path) -> None:
        tree = provider(
            name="one",
            type="together",
            endpoint=ELSEWHERE + "?api-version=3",
            fallback_models=[
                "next",
                {"model": "last", "context_window": 9, "input_usd_per_1m": 1, "output_usd_per_1m": 2},
            ],
            priority=-3,
            enabled=False,
            api_key_env="MY_KEY",
            temperature=1,
            max_tokens=5,
            context_window=4096,
            input_usd_per_1m=0.5,
            output_usd_per_1m=2,
            supports_prefill=True,
            stream_upstream=False,
            timeouts={"first_token_s": 4, "response_s": 7.5},
            headers={"X-Title": "a title"},
            allow_http=False,
        )
        settings = read(tmp_path, {"providers": [tree]}, {"MY_KEY": HIDDEN})
        assert settings.providers == (
            ProviderSettings(
                name="one",
                type="together",
                endpoint=ELSEWHERE + "?api-version=3",
                models=(
                    ModelSettings(
                        name="some-model",
                        context_window=4096,
                        price=Price(input_usd_per_1m=0.5, output_usd_per_1m=2.0),
                    ),
                    ModelSettings(name="next"),
                    ModelSettings(
                        name="last",
                        context_window=9,
                        price=Price(input_usd_per_1m=1.0, output_usd_per_1m=2.0),
                    ),
                ),
                priority=-3,
                enabled=False,
                api_key=Secret(HIDDEN),
                needs_key=True,
                temperature=1.0,
                max_tokens=5,
                headers={"X-Title": "a title"},
                supports_prefill=True,
                stream_upstream=False,
                response_timeout_s=7.5,
                first_token_timeout_s=4.0,
                key_variables=("MY_KEY", "ONE_API_KEY", "TOGETHER_API_KEY"),
            ),
        )

    def test_the_least_entry_takes_the_defaults(self, tmp_path: Path) -> None:
        assert read_one(tmp_path) == ProviderSettings(
            name="groq_llama",
            type="groq",
            endpoint=GROQ,
            models=(ModelSettings(name="some-model"),),
            priority=1,
            key_variables=("GROQ_LLAMA_API_KEY", "GROQ_API_KEY"),
        )

    def test_an_empty_value_counts_as_not_given(self, tmp_path: Path) -> None:
        empty = dict.fromkeys(ACCEPTED_KEYS["providers"]) | provider()
        plain = read(tmp_path, {"providers": [provider()]})
        nothing = {"routing": None, "routes": None, "log": None, "log_content": None}
        assert read(tmp_path, {"providers": [empty], **nothing}) == plain

    def test_providers_are_sorted_by_priority_and_equals_keep_the_order_of_the_file(
        self, tmp_path: Path
    ) -> None:
        entries = [
            provider(name=name, priority=priority)
            for name, priority in [("c", 2), ("d", 1), ("a", 2), ("b", 1)]
        ]
        assert [p.name for p in read(tmp_path, {"providers": entries}).providers] == ["d", "b", "c", "a"]

    def test_without_priorities_the_order_of_the_file_counts(self, tmp_path: Path) -> None:
        entries = [provider(name=name) for name in "cab"]
        assert [(p.name, p.priority) for p in read(tmp_path, {"providers": entries}).providers] == [
            ("c", 1),
            ("a", 2),
            ("b", 3),
        ]

    @pytest.mark.parametrize(
        ("endpoint", "kind"),
        [
            (GROQ, "groq"),
            ("https://API.GROQ.COM./x", "groq"),
            (TOGETHER, "together"),
            ("https://api.together.ai/v1/chat/completions", "together"),
            (ELSEWHERE, "openai"),
            ("https://api.groq.com.example.com/v1", "openai"),
            ("http://127.0.0.1:8000/v1", "openai"),
        ],
    )
    def test_the_type_follows_from_the_host(self, tmp_path: Path, endpoint: str, kind: str) -> None:
        assert read_one(tmp_path, endpoint=endpoint).type == kind

    def test_a_model_path_without_endpoint_means_the_embedded_model(self, tmp_path: Path) -> None:
        one = read_one(tmp_path, endpoint=..., model_path="models/my.gguf")
        assert (one.type, one.model_path, one.endpoint) == ("local", str(tmp_path / "models/my.gguf"), "")
        assert (one.needs_key, one.key_variables, one.api_key) == (False, (), None)

    def test_the_price_for_a_thousand_tokens_counts_in_both_directions_per_million(
        self, tmp_path: Path
    ) -> None:
        price = read_one(tmp_path, cost_per_1k_tokens=0.0005).models[0].price
        assert price == Price(input_usd_per_1m=0.5, output_usd_per_1m=0.5)

    def test_a_price_of_zero_is_not_an_unknown_price(self, tmp_path: Path) -> None:
        assert read_one(tmp_path, cost_per_1k_tokens=0).models[0].price == Price(
            input_usd_per_1m=0, output_usd_per_1m=0
        )
        assert read_one(tmp_path).models[0].price is None

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"name": ...}, "providers[0].name: missing"),
            ({"model": ...}, "providers[0].model: missing"),
            ({"endpoint": ...}, "providers[0].endpoint: missing"),
            ({"model": 7}, "providers[0].model: expected a text, got 7 (put it in quotes)"),
            ({"model": " "}, "providers[0].model: expected a text, got an empty one"),
            ({"model": ["x"]}, "providers[0].model: expected a text, got a list"),
            ({"modle": "x"}, 'providers[0].modle: unknown key; did you mean "model"?'),
            ({"zzz": 1}, "providers[0].zzz: unknown key"),
            ({3: 1}, "providers[0].(3): expected a text as the key; put it in quotes"),
            (
                {"name": "a b"},
                'providers[0].name: expected 1 to 64 letters, digits or any of _ . - as a name, got "a b"',
            ),
            (
                {"name": "x" * 65},
                "providers[0].name: expected 1 to 64 letters, digits or any of _ . - as a name, got a text of 65 characters",
            ),
            (
                {"name": "Auto"},
                'providers[0].name: "auto" stands for the usual order of all providers; choose another name',
            ),
            (
                {"type": "grok"},
                'providers[0].type: expected one of groq, together, openai, local, got "grok"; did you mean "groq"?',
            ),
            ({"priority": 1.5}, "providers[0].priority: expected a whole number >= -1000000, got 1.5"),
            ({"priority": True}, "providers[0].priority: expected a whole number >= -1000000, got true"),
            ({"temperature": True}, "providers[0].temperature: expected a number >= 0, got true"),
            ({"temperature": float("nan")}, "providers[0].temperature: expected a number >= 0, got nan"),
            ({"temperature": float("inf")}, "providers[0].temperature: expected a number >= 0, got inf"),
            ({"temperature": 3}, "providers[0].temperature: expected a number of at most 2, got 3"),
            ({"max_tokens": 0}, "providers[0].max_tokens: expected a whole number >= 1, got 0"),
            (
                {"context_window": 10**400},
                "providers[0].context_window: expected a whole number of at most 1000000000, got a number out of range",
            ),
            ({"enabled": "off"}, 'providers[0].enabled: expected true or false, got "off"'),
            ({"enabled": 1}, "providers[0].enabled: expected true or false, got 1"),
            (
                {"timeouts": {"response_s": "fast"}},
                'providers[0].timeouts.response_s: expected a number > 0, got "fast"',
            ),
            (
                {"timeouts": {"first_token_s": 0}},
                "providers[0].timeouts.first_token_s: expected a number > 0, got 0",
            ),
            ({"timeouts": 5}, "providers[0].timeouts: expected a mapping (key: value), got 5"),
            (
                {"first_token_timeout_s": 5},
                'providers[0].first_token_timeout_s: unknown key; did you mean "timeouts.first_token_s"?',
            ),
            (
                {"input_usd_per_1m": 1},
                "providers[0].output_usd_per_1m: missing; input_usd_per_1m is given, and a cost needs both",
            ),
            ({"cost_per_1k_tokens": -1}, "providers[0].cost_per_1k_tokens: expected a number >= 0, got -1"),
            (
                {"cost_per_1k_tokens": 1, "input_usd_per_1m": 1, "output_usd_per_1m": 1},
                "providers[0].cost_per_1k_tokens: give either this or input_usd_per_1m and output_usd_per_1m, not both",
            ),
            ({"fallback_models": "x"}, 'providers[0].fallback_models: expected a list of models, got "x"'),
            ({"fallback_models": [None]}, "providers[0].fallback_models[0]: expected a model, got nothing"),
            (
                {"fallback_models": [4]},
                "providers[0].fallback_models[0]: expected a mapping (key: value), got 4",
            ),
            (
                {"fallback_models": [""]},
                "providers[0].fallback_models[0].model: expected a text, got an empty one",
            ),
            (
                {"fallback_models": ["a", {"model": "b", "context": 5}]},
                'providers[0].fallback_models[1].context: unknown key; did you mean "context_window"?',
            ),
            (
                {"fallback_models": ["some-model"]},
                "providers[0].fallback_models[0]: this provider names the same model twice",
            ),
            (
                {"model_path": "x.gguf"},
                "providers[0].model_path: is for the embedded model only (type: local)",
            ),
            (
                {"type": "local"},
                "providers[0].endpoint: means nothing for the embedded model (type: local); remove it",
            ),
            ({"headers": {"X-A": 1}}, "providers[0].headers.X-A: expected a text, got 1; put it in quotes"),
            ({"headers": {"X A": "b"}}, 'providers[0].headers.("X A"): this is no name of an HTTP header'),
            ({"headers": {"Host": "b"}}, "providers[0].headers.Host: is set by the program; remove it"),
            (
                {"headers": {"X-A": "b\r\nX-B: c"}},
                "providers[0].headers.X-A: expected 1 to 1024 printable ASCII characters without space around them",
            ),
            (
                {"headers": {"X-A": "b", "x-a": "c"}},
                "providers[0].headers.x-a: stands here twice: names of headers ignore case",
            ),
        ],
    )
    def test_a_mistake_is_named_with_its_place(
        self, tmp_path: Path, changes: dict[Any, object], expected: str
    ) -> None:
        assert problems(tmp_path, {"providers": [provider(changes)]}) == [expected]

    @pytest.mark.parametrize(
        "endpoint",
        [
            "api.groq.com/openai/v1",
            "ftp://example.com/x",
            "https://",
            "https://exa mple.com/",
            "https://example.com:99999/",
            "https://example.com:0/",
            "https://[::1/x",
            "https://bücher.example/",
            "https://example.com\\@evil.example/",
        ],
    )
    def test_what_is_no_url_is_refused(self, tmp_path: Path, endpoint: str) -> None:
        expected = "providers[0].endpoint: expected a URL such as https://api.example.com/v1/chat/completions"
        assert problems_of_one(tmp_path, endpoint=endpoint) == [expected]

    @pytest.mark.parametrize(
        "host", ["localhost:8000", "127.0.0.1", "127.8.9.1:1", "[::1]:80", "a.localhost"]
    )
    def test_http_on_this_machine_is_accepted_and_needs_no_key(self, tmp_path: Path, host: str) -> None:
        assert not read_one(tmp_path, endpoint=f"http://{host}/v1/chat/completions").needs_key

    @pytest.mark.parametrize("host", ["example.com", "192.168.1.4", "localhost.example.com", "0.0.0.0"])  # noqa: S104 -- an address that is refused
    def test_http_to_another_machine_needs_a_word_that_it_is_meant(self, tmp_path: Path, host: str) -> None:
        [problem] = problems_of_one(tmp_path, endpoint=f"http://{host}/v1")
        assert problem.startswith(
            "providers[0].endpoint: http would send the key and every prompt unencrypted"
        )
        assert read_one(tmp_path, endpoint=f"http://{host}/v1", allow_http=True).needs_key

    def test_two_providers_of_one_name_are_refused(self, tmp_path: Path) -> None:
        assert problems(tmp_path, {"providers": [provider(), provider()]}) == [
            'providers[1].name: providers[0] has the name "groq_llama" already'
        ]

    @pytest.mark.parametrize("tree", [{"providers": []}, {"providers": None}, {"log_content": True}])
    def test_a_file_without_providers_is_refused(self, tmp_path: Path, tree: object) -> None:
        assert problems(tmp_path, tree) == [
            "providers: expected a list of at least one provider, got nothing"
        ]

    def test_providers_that_are_no_list_of_mappings_are_refused(self, tmp_path: Path) -> None:
        assert problems(tmp_path, {"providers": provider()}) == [
            "providers: expected a list of providers, got a mapping"
        ]
        assert problems(tmp_path, {"providers": ["groq", None]}) == [
            'providers[0]: expected a mapping (key: value), got "groq"',
            "providers[1]: expected a mapping (key: value), got nothing",
        ]

    def test_every_problem_is_reported_at_once(self, tmp_path: Path) -> None:
        tree = {
            "providers": [
                provider(modle="x"),
                provider(name="b", priority="high"),
                provider(name="c", timeouts=3),
            ],
            "routing": {"retries": -1},
            "routes": {"fast": ["d"]},
            "log_contents": True,
        }
        found = problems(tmp_path, tree, {"GROQ_API_KEY": "two words"})
        assert [problem.split(": ")[0] for problem in found] == [
            "log_contents",
            "providers[0].modle",
            "providers[1].priority",
            "providers[2].timeouts",
            "routing.retries",
            "routes.fast[0]",
            "GROQ_API_KEY",
        ]


class TestKeys:
    @pytest.mark.parametrize(
        ("name", "changes", "variables"),
        [
            ("groq_llama", {}, ("GROQ_LLAMA_API_KEY", "GROQ_API_KEY")),
            ("together_llama", {"endpoint": TOGETHER}, ("TOGETHER_LLAMA_API_KEY", "TOGETHER_API_KEY")),
            ("together", {"endpoint": TOGETHER}, ("TOGETHER_API_KEY",)),
            ("my-own.v2", {"api_key_env": "MINE"}, ("MINE", "MY_OWN_V2_API_KEY", "GROQ_API_KEY")),
            (
                "gpt",
                {"endpoint": "https://api.openai.com/v1/chat/completions"},
                ("GPT_API_KEY", "OPENAI_API_KEY"),
            ),
            ("gpt", {"endpoint": ELSEWHERE, "type": "openai"}, ("GPT_API_KEY", "OPENAI_API_KEY")),
            ("gpt", {"endpoint": ELSEWHERE}, ("GPT_API_KEY",)),
        ],
    )
    def test_the_first_variable_that_is_set_holds_the_key(
        self, tmp_path: Path, name: str, changes: dict[str, Any], variables: tuple[str, ...]
    ) -> None:
        assert read_one(tmp_path, name=name, **changes).key_variables == variables
        for index, variable in enumerate(variables):
            environ = {later: f"key-of-{later}" for later in variables[index:]}
            environ |= dict.fromkeys(variables[:index], "  ")
            assert read_one(tmp_path, environ, name=name, **changes).api_key == Secret(f"key-of-{variable}")

    def test_openais_key_does_not_go_to_another_server_of_the_same_dialect(self, tmp_path: Path) -> None:
        assert read_one(tmp_path, {"OPENAI_API_KEY": HIDDEN}, name="mine", endpoint=ELSEWHERE).api_key is None

    def test_a_provider_without_key_is_no_problem(self, tmp_path: Path) -> None:
        one = read_one(tmp_path)
        assert (one.api_key, one.needs_key) == (None, True)

    def test_a_server_on_this_machine_gets_the_key_that_is_set(self, tmp_path: Path) -> None:
        one = read_one(tmp_path, {"GROQ_API_KEY": HIDDEN}, endpoint="http://127.0.0.1:1/v1", type="groq")
        assert (one.api_key, one.needs_key) == (Secret(HIDDEN), False)

    def test_keys_come_from_the_env_file_beside_the_configuration(self, tmp_path: Path) -> None:
        text = "\ufeff# keys\nexport GROQ_API_KEY = 'from-file'  # a comment\nTOGETHER_API_KEY=\nSESSION_SECRET=s${HOME}\n"
        settings = read(tmp_path, {"providers": [provider()]}, dotenv=text)
        assert settings.providers[0].api_key == Secret("from-file")
        assert settings.session_secret == Secret("s${HOME}")

    def test_the_environment_wins_over_the_env_file_unless_it_is_empty(self, tmp_path: Path) -> None:
        tree = {"providers": [provider()]}
        for environ, expected in [
            ({"GROQ_API_KEY": " from-environment\n"}, "from-environment"),
            ({"GROQ_API_KEY": ""}, "from-file"),
        ]:
            settings = read(tmp_path, tree, environ, dotenv="GROQ_API_KEY=from-file")
            assert settings.providers[0].api_key == Secret(expected)

    def test_the_process_environment_is_read_and_left_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GROQ_LLAMA_API_KEY", "from-process")
        file = write(tmp_path, {"providers": [provider()]}, "ONLY_IN_THE_FILE=1")
        before = dict(os.environ)
        assert load(file).providers[0].api_key == Secret("from-process")
        assert dict(os.environ) == before

    @pytest.mark.parametrize("text", ["SESSION_SECRET=\n", "SESSION_SECRET='  '\n", ""])
    def test_an_empty_session_secret_counts_as_none(self, tmp_path: Path, text: str) -> None:
        assert read(tmp_path, {"providers": [provider()]}, dotenv=text).session_secret is None

    @pytest.mark.parametrize("extra", [" x", "\tx", "\x00", "\nx", "é", '"', "\udcff"])
    def test_a_key_that_no_header_could_carry_is_named_by_its_variable_once(
        self, tmp_path: Path, extra: str
    ) -> None:
        tree = {"providers": [provider(), provider(name="groq_mixtral")]}
        [problem] = problems(tmp_path, tree, {"GROQ_API_KEY": f"{HIDDEN}{extra}{HIDDEN}"})
        assert problem.startswith(
            "GROQ_API_KEY: the key holds a space, a quotation mark or another character"
        )
        assert HIDDEN not in problem

    def test_a_line_of_the_env_file_that_cannot_be_read_is_a_problem(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            read(tmp_path, {"providers": [provider()]}, dotenv=f"A=1\nGROQ KEY={HIDDEN}\n")
        assert [str(problem) for problem in caught.value.problems] == [".env, line 2: expected NAME=value"]

    def test_an_env_file_that_is_not_utf8_or_a_folder_is_a_problem(self, tmp_path: Path) -> None:
        file = write(tmp_path, {"providers": [provider()]})
        (tmp_path / ".env").write_bytes(b"A=1\nB=\xff\n")
        with pytest.raises(ConfigError, match=r"\.env: not UTF-8 in line 2"):
            load(file, environ={})
        (tmp_path / ".env").unlink()
        (tmp_path / ".env").mkdir()
        with pytest.raises(ConfigError, match=r"\.env: expected a file, found a folder"):
            load(file, environ={})

    @pytest.mark.parametrize(
        "name", ["api_key", "apikey", "API-Key", "key", "token", "groq_api_key", "password", "client_secret"]
    )
    @pytest.mark.parametrize("value", [HIDDEN, "", 12345678])
    def test_a_literal_key_is_refused_unseen(self, tmp_path: Path, name: str, value: object) -> None:
        advice = "a key does not belong in this file: put it into .env and name its variable in api_key_env"
        assert problems(tmp_path, {"providers": [provider({name: value})]}) == [
            f"providers[0].{name}: {advice}"
        ]
        assert problems(tmp_path, {"providers": [provider()], name: value}) == [f"{name}: {advice}"]

    @pytest.mark.parametrize(
        "name", ["Authorization", "x-api-key", "api-key", "Proxy-Authorization", "Cookie", "X-Auth-Token"]
    )
    def test_a_header_that_carries_a_key_is_refused_unseen(self, tmp_path: Path, name: str) -> None:
        [problem] = problems_of_one(tmp_path, headers={name: HIDDEN})
        assert problem.startswith(f"providers[0].headers.{name}: a key does not belong in this file")

    @pytest.mark.parametrize(
        "endpoint",
        [
            f"https://{HIDDEN}@example.com/v1",
            f"https://user:{HIDDEN}@example.com/v1",
            f"https://@example.com/v1?key={HIDDEN}",
            f"https://example.com/v1?a=b&API-Key={HIDDEN}",
            f"https://example.com/v1?access_token={HIDDEN}",
        ],
    )
    def test_a_key_inside_the_endpoint_is_refused_unseen(self, tmp_path: Path, endpoint: str) -> None:
        found = problems_of_one(tmp_path, endpoint=endpoint)
        assert all(problem.startswith("providers[0].endpoint: holds a ") for problem in found)
        assert HIDDEN not in "".join(found)

    @pytest.mark.parametrize(
        "value", ["abcdef0123456789abcdef0123456789", "$GROQ_API_KEY", "groq_api_key", 5, ""]
    )
    def test_a_key_in_place_of_its_variables_name_is_refused_unseen(
        self, tmp_path: Path, value: object
    ) -> None:
        [problem] = problems_of_one(tmp_path, api_key_env=value)
        assert problem.startswith(
            "providers[0].api_key_env: expected the name of an environment variable in capitals"
        )
        assert not value or str(value) not in problem.replace("GROQ_API_KEY", "")

    @pytest.mark.parametrize("key", [*ACCEPTED_KEYS["providers"], HIDDEN])
    def test_a_key_pasted_anywhere_into_a_provider_is_never_shown(self, tmp_path: Path, key: str) -> None:
        for value in (HIDDEN, [HIDDEN], [[HIDDEN]], {HIDDEN: HIDDEN}, [{HIDDEN: HIDDEN}]):
            tree = {"providers": [provider({"modle": 1, key: value}), HIDDEN]}
            assert HIDDEN not in "".join(problems(tmp_path, tree))

    @pytest.mark.parametrize("key", [*ACCEPTED_KEYS[""], HIDDEN])
    def test_a_key_pasted_anywhere_else_is_never_shown(self, tmp_path: Path, key: str) -> None:
        values: list[object] = [HIDDEN, {HIDDEN: HIDDEN}, {HIDDEN: [HIDDEN]}]
        values += [
            {name: HIDDEN}
            for block in ("routing", "log", "api", "dashboard")
            for name in ACCEPTED_KEYS[block]
        ]
        for value in values:
            assert HIDDEN not in "".join(
                problems(tmp_path, {"providers": [provider(modle=1)], "zzz": 1, key: value})
            )


class TestRoutingAndRoutes:
    def test_every_routing_key_reaches_the_policy(self, tmp_path: Path) -> None:
        block: dict[str, Any] = {
            "deadline_s": 30,
            "connect_timeout_s": 1.5,
            "first_token_timeout_s": 4,
            "idle_timeout_s": 5,
            "retries": 0,
            "retry_delay_s": 0,
            "max_retry_wait_s": 3,
            "on_stream_break": "error",
            "cooldown_s": 300,
            "strikes": 2,
            "quota_recheck_s": 60,
            "content_policy": "fail_over",
            "max_response_bytes": 2048,
        }
        assert set(block) == set(ACCEPTED_KEYS["routing"])
        settings = read(tmp_path, {"providers": [provider()], "routing": block})
        assert settings.routing == RoutingPolicy(**block)

    @pytest.mark.parametrize(
        ("block", "expected"),
        [
            ({"deadline_s": "soon"}, 'routing.deadline_s: expected a number > 0, got "soon"'),
            (
                {"deadline_s": 1e300},
                "routing.deadline_s: expected a number of at most 86400, got a number out of range",
            ),
            ({"deadline": 5}, 'routing.deadline: unknown key; did you mean "deadline_s"?'),
            ({"retries": 1.0}, "routing.retries: expected a whole number >= 0, got 1.0"),
            ({"cooldown_s": 0}, "routing.cooldown_s: expected a number > 0, got 0"),
            ({"routes": {}}, 'routing.routes: unknown key; did you mean "retries"?'),
            (
                {"content_policy": "failover"},
                'routing.content_policy: expected one of error, fail_over, got "failover"; did you mean "fail_over"?',
            ),
            ([], "routing: expected a mapping (key: value), got a list"),
        ],
    )
    def test_a_mistake_in_the_routing_block_is_named(
        self, tmp_path: Path, block: object, expected: str
    ) -> None:
        assert problems(tmp_path, {"providers": [provider()], "routing": block}) == [expected]

    def test_a_routing_key_at_the_top_level_is_told_where_it_belongs(self, tmp_path: Path) -> None:
        assert problems(tmp_path, {"providers": [provider()], "first_token_timeout_s": 5}) == [
            'first_token_timeout_s: unknown key; did you mean "routing.first_token_timeout_s"?'
        ]

    def test_routes_keep_their_own_order(self, tmp_path: Path) -> None:
        tree = {
            "providers": [provider(name="a"), provider(name="b")],
            "routes": {"cheap": ["b", "a"], "one": ["a"]},
        }
        assert read(tmp_path, tree).routing.routes == {"cheap": ("b", "a"), "one": ("a",)}

    @pytest.mark.parametrize(
        ("routes", "expected"),
        [
            ({"r": ["grok_llama"]}, 'routes.r[0]: unknown provider "grok_llama"; did you mean "groq_llama"?'),
            ({"r": ["groq_llama", "groq_llama"]}, 'routes.r[1]: "groq_llama" stands in this route already'),
            ({"r": [7]}, "routes.r[0]: expected the name of a provider, got 7"),
            ({"r": []}, "routes.r: expected a list of at least one provider name, got nothing"),
            ({"r": None}, "routes.r: expected a list of at least one provider name, got nothing"),
            ({"r": "groq_llama"}, 'routes.r: expected a list of provider names, got "groq_llama"'),
            (
                {"groq_llama": ["groq_llama"]},
                "routes.groq_llama: a provider has this name; choose another one for the route",
            ),
            (
                {"auto": ["groq_llama"]},
                'routes.auto: "auto" stands for the usual order of all providers; choose another name',
            ),
            (
                {"a b": ["groq_llama"]},
                'routes.("a b"): expected 1 to 64 letters, digits or any of _ . - as a name, got "a b"',
            ),
            ({1: ["groq_llama"]}, "routes.(1): expected a text as the key; put it in quotes"),
            (["groq_llama"], "routes: expected a mapping (key: value), got a list"),
        ],
    )
    def test_a_mistake_in_a_route_is_named(self, tmp_path: Path, routes: object, expected: str) -> None:
        assert problems(tmp_path, {"providers": [provider()], "routes": routes}) == [expected]


class TestLog:
    def test_the_log_lives_beside_the_file_and_holds_no_content_by_default(self, tmp_path: Path) -> None:
        settings = read(tmp_path, {"providers": [provider()]})
        assert settings.log == LogSettings(
            folder=tmp_path / "logs",
            content=False,
            rotate_bytes=64 * 1024 * 1024,
            instance=socket.gethostname(),
        )
        assert settings.source == tmp_path / "providers.yaml"

    def test_log_settings_are_read(self, tmp_path: Path) -> None:
        tree = {
            "providers": [provider()],
            "log": {"folder": "var/log", "rotate_bytes": 4096},
            "log_content": True,
        }
        assert read(tmp_path, tree).log == LogSettings(
            folder=tmp_path / "var/log", content=True, rotate_bytes=4096, instance=socket.gethostname()
        )

    def test_the_instance_is_named_by_the_environment_and_workers_by_their_number(
        self, tmp_path: Path
    ) -> None:
        settings = read(tmp_path, {"providers": [provider()]}, {"INSTANCE_NAME": "replica-a"})
        assert settings.log.instance == "replica-a"
        assert [settings.of_worker(number).log.instance for number in (0, 11)] == [
            "replica-a-0",
            "replica-a-11",
        ]
        assert settings.of_worker(0).providers == settings.providers

    def test_the_places_of_logs_are_split_at_commas_and_as_paths_are(self, tmp_path: Path) -> None:
        value = (
            f"a{os.pathsep}/srv/../logs/*, s3://bucket/x/*{os.pathsep}y ,"
            f"http://127.0.0.1:9000/l/?a=b:c, b{os.pathsep}gs://z/usage.log,file:///var/log/u.log,a"
        )
        settings = read(tmp_path, {"providers": [provider()]}, {"USAGE_LOGS": value})
        assert settings.log.sources == (
            str(tmp_path / "a"),
            "/logs/*",
            f"s3://bucket/x/*{os.pathsep}y",
            "http://127.0.0.1:9000/l/?a=b:c",
            str(tmp_path / "b"),
            "gs://z/usage.log",
            "/var/log/u.log",
        )
        assert "a=b" not in repr(settings)

    @pytest.mark.parametrize(
        "value",
        [
            "s3://somebody:hush@bucket/a",
            "https://hush@logs.example.com/",
            "s3://",
            "http://[hush",
            "/logs\x1b",
            "~nobody-of-this-name-hush/logs",
        ],
    )
    def test_a_place_that_is_none_or_holds_a_password_is_refused_and_not_quoted(
        self, tmp_path: Path, value: str
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            read(tmp_path, {"providers": [provider()]}, {"USAGE_LOGS": value})
        (problem,) = caught.value.problems
        assert problem.path == "USAGE_LOGS"
        assert "hush" not in problem.message

    @pytest.mark.parametrize("name", ["x" * 129, "a\x1bb"])
    def test_an_instance_name_that_cannot_be_shown_is_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ConfigError) as caught:
            read(tmp_path, {"providers": [provider()]}, {"INSTANCE_NAME": name})
        assert [problem.path for problem in caught.value.problems] == ["INSTANCE_NAME"]

    def test_an_absolute_log_folder_stays_as_it_is(self, tmp_path: Path) -> None:
        tree = {"providers": [provider()], "log": {"folder": str(tmp_path.parent)}}
        assert read(tmp_path, tree).log.folder == tmp_path.parent

    def test_mistakes_in_the_log_block_are_named(self, tmp_path: Path) -> None:
        tree = {
            "providers": [provider()],
            "log": {"folder": "a\0b", "rotate_bytes": 1},
            "log_content": "yes please",
        }
        assert problems(tmp_path, tree) == [
            "log.rotate_bytes: expected a whole number >= 4096, got 1",
            'log.folder: expected one line of at most 1024 printable characters, got "a\\u0000b"',
            'log_content: expected true or false, got "yes please"',
        ]

    def test_an_unknown_home_folder_is_a_problem(self, tmp_path: Path) -> None:
        tree = {"providers": [provider()], "log": {"folder": "~no_such_user_here/logs"}}
        assert problems(tmp_path, tree) == [
            "log.folder: the home folder that ~ stands for is not known; write the whole path"
        ]


class TestFiles:
    def test_a_relative_path_is_read_from_the_working_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path, {"providers": [provider()]}, "GROQ_API_KEY=from-file")
        monkeypatch.chdir(tmp_path)
        settings = load(environ={})
        assert settings.source == tmp_path / "providers.yaml"
        assert settings.providers[0].api_key == Secret("from-file")

    def test_a_missing_file_is_one_clear_problem(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            load(tmp_path / "absent.yaml", environ={})
        assert str(caught.value) == f"{tmp_path / 'absent.yaml'}: 1 problem\n  no such file"

    def test_problems_are_headed_by_what_has_to_be_changed(self, tmp_path: Path) -> None:
        (tmp_path / ".streamlit").mkdir()
        (tmp_path / ".streamlit/secrets.toml").write_text("no TOML")
        environ = {"API_KEYS": "short", "GROQ_API_KEY": "two words"}
        with pytest.raises(ConfigError) as caught:
            read(tmp_path, {"providers": [provider(modle="x")]}, environ, "DASHBOARD_PASSWORD=abc\nodd\n")
        told = re.sub(r"^(  \S+?):? .*", r"\1", str(caught.value), flags=re.MULTILINE)
        assert told.splitlines() == [
            f"{tmp_path / 'providers.yaml'}: 1 problem",
            "  providers[0].modle",
            ".env or the environment: 3 problems",
            "  GROQ_API_KEY",
            "  API_KEYS",
            "  DASHBOARD_PASSWORD",
            ".streamlit/secrets.toml: 1 problem",
            "  .streamlit/secrets.toml",
        ]

    def test_only_wrong_variables_leave_the_file_out_of_it(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            read(tmp_path, {"providers": [provider()]}, {"DASHBOARD_PASSWORD": "abc"})
        assert str(caught.value).startswith(".env or the environment: 1 problem\n  DASHBOARD_PASSWORD: ")

    def test_a_folder_in_place_of_the_file_is_one_clear_problem(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="expected a file, found a folder"):
            load(tmp_path, environ={})

    def test_an_impossible_path_is_one_clear_problem(self) -> None:
        with pytest.raises(ConfigError, match=r"cannot be read \(ValueError\)"):
            load("providers\0.yaml", environ={})

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
    def test_a_file_without_permission_is_one_clear_problem(self, tmp_path: Path) -> None:
        file = write(tmp_path, {"providers": [provider()]})
        file.chmod(0)
        with pytest.raises(ConfigError, match="no permission to read it"):
            load(file, environ={})

    def test_invalid_utf8_is_named_with_its_line(self, tmp_path: Path) -> None:
        file = tmp_path / "providers.yaml"
        file.write_bytes(b"providers:\n  - name: \xff\xfe\n")
        with pytest.raises(ConfigError, match="not UTF-8 in line 2: save the file as UTF-8"):
            load(file, environ={})

    def test_an_enormous_file_is_not_read_whole(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="larger than 1024 KiB"):
            read(tmp_path, "#" * (1024 * 1024 + 1))

    def test_a_byte_order_mark_is_no_problem(self, tmp_path: Path) -> None:
        text = "\ufeff" + yaml.safe_dump({"providers": [provider()]})
        assert read(tmp_path, text).providers[0].name == "groq_llama"

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("", "expected a mapping that begins with `providers:`, got an empty file"),
            ("# nothing\n", "expected a mapping that begins with `providers:`, got an empty file"),
            ("- a\n", "expected a mapping that begins with `providers:`, got a list"),
            ("words\n", 'expected a mapping that begins with `providers:`, got "words"'),
            ("a: 1\nb: [\n", "line 3, column 1: expected the node content, but found '<stream end>'"),
            ("a: b: c\n", "line 1, column 5: mapping values are not allowed here"),
            ("a: 2026-02-30\n", "line 1, column 4: this value cannot be read; put it in quotes"),
            ("a: !!int x\n", "line 1, column 4: this value cannot be read; put it in quotes"),
            ("a: !!bool x\n", "line 1, column 4: this value cannot be read; put it in quotes"),
            ("a: 1\nb: \x07\n", "line 2: the character U+0007 is not allowed in YAML"),
            ("[" * 1000, "nested too deeply to be read"),
            ("a: 1\n---\nb: 2\n", "line 2, column 1: but found another document"),
            (f"a: *{HIDDEN}\n", "line 1, column 4: found undefined alias a text"),
        ],
    )
    def test_what_is_no_configuration_is_one_clear_problem(
        self, tmp_path: Path, text: str, expected: str
    ) -> None:
        assert problems(tmp_path, text) == [expected]

    def test_no_python_object_is_ever_made_from_the_file(self, tmp_path: Path) -> None:
        [problem] = problems(tmp_path, "a: !!python/object/apply:os.getcwd []\n")
        assert problem.startswith("line 1, column 4: could not determine a constructor for the tag")

    def test_keys_given_twice_are_all_named_with_their_places(self, tmp_path: Path) -> None:
        text = f"providers:\n  - name: a\n    model: m\n    endpoint: {GROQ}\n    model: n\nrouting: {{retries: 1, retries: 2}}\n"
        assert problems(tmp_path, text) == [
            'line 5, column 5: duplicate key "model"',
            'line 6, column 23: duplicate key "retries"',
        ]

    def test_a_merged_mapping_may_override_what_it_merges(self, tmp_path: Path) -> None:
        text = (
            f"providers:\n  - &first\n    name: a\n    model: m\n    endpoint: {GROQ}\n"
            "  - &second\n    <<: *first\n    name: b\n  - <<: *second\n    name: c\n"
        )
        assert [p.name for p in read(tmp_path, text).providers] == ["a", "b", "c"]

    def test_a_mapping_that_holds_itself_ends_in_problems(self, tmp_path: Path) -> None:
        assert problems(tmp_path, "&a\nproviders: [*a]\nrouting: *a\n")


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.dates()
    | st.text(max_size=30)
    | st.sampled_from(
        [GROQ, TOGETHER, "local", "auto", "a", HIDDEN, f"https://{HIDDEN}@example.com/", 10**400]
    )
)
KNOWN_NAMES = st.sampled_from(
    sorted(
        {key for keys in ACCEPTED_KEYS.values() for key in keys} | {"api_key", "Authorization", "a", HIDDEN}
    )
)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KNOWN_NAMES | st.text(max_size=8) | st.integers(), inner, max_size=8)
    ),
    max_leaves=30,
)
LIKELY = st.fixed_dictionaries(
    {"providers": st.lists(st.dictionaries(KNOWN_NAMES, TREES, max_size=8), max_size=3)},
    optional={"routing": TREES, "routes": TREES, "log": TREES, "log_content": TREES},
)


def outcome(content: bytes, environ: Mapping[str, str], dotenv: bytes = b"") -> str:
    """Return the message of the ConfigError, or the settings as a log might show them."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "providers.yaml").write_bytes(content)
        (Path(folder) / ".env").write_bytes(dotenv)
        try:
            return repr(load(Path(folder) / "providers.yaml", environ=environ))
        except ConfigError as exc:
            message = str(exc)
    assert re.search(r"\d+ problems?\n  .", message)
    assert message.encode().decode() == message
    return message


class TestAnyInput:
    @settings(deadline=None)
    @given(tree=TREES | LIKELY)
    def test_any_tree_gives_settings_or_a_configuration_error(self, tree: object) -> None:
        outcome(yaml.safe_dump(tree).encode(), {})

    @settings(deadline=None)
    @given(
        content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode), dotenv=st.binary(max_size=80)
    )
    def test_any_bytes_give_settings_or_a_configuration_error(self, content: bytes, dotenv: bytes) -> None:
        outcome(content, {}, dotenv)

    @settings(deadline=None)
    @given(tree=TREES | LIKELY, extra=st.text(max_size=3))
    def test_no_message_shows_a_secret(self, tree: Any, extra: str) -> None:
        environ = {"GROQ_API_KEY": HIDDEN + extra, "A_API_KEY": HIDDEN, "SESSION_SECRET": HIDDEN}
        message = outcome(yaml.safe_dump(tree).encode(), environ)
        if "problem" in message.split("\n")[0]:
            assert HIDDEN not in message

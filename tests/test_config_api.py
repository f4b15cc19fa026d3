"""The api block, API_KEYS and ALLOWED_HOSTS."""

from __future__ import annotations

import base64
import hashlib
import random
import re
import string
import uuid
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from fallback.config import ACCEPTED_KEYS, ApiSettings, Settings, load
from fallback.config.api import read_api_keys
from fallback.core.errors import ConfigError, Problem

ROOT = Path(__file__).parents[1]
ONE, TWO = "a-key-of-the-tests-1", "a-key-of-the-tests-2"


def sha(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def read(folder: Path, environ: Mapping[str, str] | None = None, **more: Any) -> Settings:
    tree = {"providers": [{"name": "one", "endpoint": "https://example.com/v1", "model": "m"}], **more}
    file = folder / "providers.yaml"
    file.write_text(yaml.safe_dump(tree))
    return load(file, environ=environ or {})


def problems(folder: Path, environ: Mapping[str, str] | None = None, **more: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(folder, environ, **more)
    return [str(problem) for problem in caught.value.problems]


class TestBlock:
    def test_the_shipped_block_writes_out_every_default(self) -> None:
        written = yaml.safe_load((ROOT / "providers.yaml").read_text(encoding="utf-8"))["api"]
        assert list(written) == [item.name for item in fields(ApiSettings)] == list(ACCEPTED_KEYS["api"])
        assert written == {key: getattr(ApiSettings(), key) for key in written}

    def test_the_documentation_names_every_default(self) -> None:
        text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
        for key in ACCEPTED_KEYS["api"]:
            match = re.search(rf"^\| `{key}` \| `([^`]+)` \|", text, re.MULTILINE)
            assert match, key
            assert yaml.safe_load(match[1]) == getattr(ApiSettings(), key), key

    def test_every_key_reaches_the_settings(self, tmp_path: Path) -> None:
        block = dict.fromkeys(ACCEPTED_KEYS["api"], 4321)
        assert read(tmp_path, api=block).api == ApiSettings(**block)

    @pytest.mark.parametrize(
        ("key", "value", "sentence"),
        [
            ("max_body_bytes", 1023, "expected a whole number >= 1024, got 1023"),
            ("max_body_bytes", "1 MiB", 'expected a whole number >= 1024, got "1 MiB"'),
            ("max_requests", 0, "expected a whole number >= 1, got 0"),
            ("requests_per_minute", 0.5, "expected a whole number >= 1, got 0.5"),
            ("max_header_bytes", 2**21, "expected a whole number of at most 1048576, got 2097152"),
            ("body_timeout_s", 0, "expected a number > 0, got 0"),
            ("send_timeout_s", True, "expected a number > 0, got true"),
            ("keep_alive_timeout_s", 1e9, "expected a number of at most 86400, got 1000000000.0"),
        ],
    )
    def test_a_mistake_is_named_with_its_place(
        self, tmp_path: Path, key: str, value: object, sentence: str
    ) -> None:
        assert problems(tmp_path, api={key: value}) == [f"api.{key}: {sentence}"]

    def test_a_key_at_the_top_level_is_told_where_it_belongs(self, tmp_path: Path) -> None:
        assert problems(tmp_path, max_requests=5) == [
            'max_requests: unknown key; did you mean "api.max_requests"?'
        ]


class TestKeys:
    def test_without_the_variable_there_are_none(self, tmp_path: Path) -> None:
        assert read(tmp_path).api_keys == ()
        assert read(tmp_path, {"API_KEYS": "  "}).api_keys == ()

    def test_values_are_kept_as_digests_under_a_number(self, tmp_path: Path) -> None:
        settings = read(tmp_path, {"API_KEYS": f" {ONE}, {TWO},"})
        assert [(key.name, key.digest) for key in settings.api_keys] == [
            ("key-1", sha(ONE)),
            ("key-2", sha(TWO)),
        ]
        assert ONE not in repr(settings)

    @pytest.mark.parametrize("named", ["keys.txt", "./keys.txt", "{folder}/keys.txt"])
    def test_a_file_names_its_keys(self, tmp_path: Path, named: str) -> None:
        lines = ["# who may", "", f"alice:{sha(ONE).hex()}", f"  bob.2 : {sha(TWO).hex().upper()}"]
        (tmp_path / "keys.txt").write_text("\n".join(lines))
        settings = read(tmp_path, {"API_KEYS": named.format(folder=tmp_path)})
        assert [(key.name, key.digest) for key in settings.api_keys] == [
            ("alice", sha(ONE)),
            ("bob.2", sha(TWO)),
        ]

    @pytest.mark.parametrize(
        "value", ["tiny", f"{ONE},tiny", f"{ONE} {TWO}", "ключ-которого-нет", "keys-that-are"]
    )
    def test_a_key_that_could_be_guessed_or_sent_by_nobody_is_refused_unseen(
        self, tmp_path: Path, value: str
    ) -> None:
        [problem] = problems(tmp_path, {"API_KEYS": value})
        assert problem.startswith("API_KEYS: key ")
        assert "expected at least 16 characters" in problem
        assert value not in problem

    @pytest.mark.parametrize(
        "value", ["/nowhere/at/all", "./nowhere-at-all", "~nobody-here/nowhere.txt", "."]
    )
    def test_a_path_that_holds_no_file_is_a_problem_and_no_key(self, tmp_path: Path, value: str) -> None:
        [problem] = problems(tmp_path, {"API_KEYS": value})
        assert problem.startswith("API_KEYS: ")

    @pytest.mark.parametrize(
        "named",
        [
            "keys-of-callers.txt",
            "keys-of-callers.KEYS",
            "Keys-of-2026-callers.list",
            "secrets/keys-of-callers",
            "secrets/2026/api_keys_v2",
            "secrets\\keys-of-callers",
            "/run/secrets/callers",
            "/etc/llm_fallback/ApiKeys2",
            "/etc/Fallback/ApiKeysOfCallers",
            "/data/a&b/keys-of-callers",
            "/srv/x7F3/keys",
            "~/keys-of-the-callers",
            ".keys-of-the-callers",
            "../x7F3/keys-of-callers",
        ],
    )
    def test_the_name_of_a_file_that_is_missing_is_never_a_key(self, tmp_path: Path, named: str) -> None:
        [alone] = problems(tmp_path, {"API_KEYS": named})
        assert "the file that it names is not there" in alone
        [listed] = problems(tmp_path, {"API_KEYS": f"{ONE}, {named}"})
        assert listed.startswith("API_KEYS: key 2 looks like the name of a file")
        assert named not in alone + listed

    def test_a_random_key_of_any_alphabet_is_never_taken_for_a_file(self, tmp_path: Path) -> None:
        draw = random.Random(7)
        unreserved = string.ascii_letters + string.digits + "-._~"
        for _ in range(3000):
            raw = draw.randbytes(draw.choice((16, 18, 24, 32)))
            drawn = [
                raw.hex(),
                base64.b64encode(raw).decode(),
                base64.b64encode(b"\xff" + raw).decode(),
                base64.b64encode(raw[:12]).decode(),
                base64.urlsafe_b64encode(raw).decode().rstrip("="),
                "sk-" + base64.b32encode(raw).decode(),
                "".join(draw.choices(unreserved, k=32)),
                draw.choice("~.") + "".join(draw.choices(unreserved, k=24)),
                str(uuid.UUID(bytes=raw[:16])),
            ]
            for key in drawn:
                found: list[Problem] = []
                read_api_keys({"API_KEYS": key}, tmp_path, found)
                assert found == [], key

    def test_a_variable_or_file_without_a_key_is_no_open_door(self, tmp_path: Path) -> None:
        expected = ["API_KEYS: holds no key; remove it to serve without keys"]
        (tmp_path / "keys.txt").write_text("# nobody yet\n")
        assert problems(tmp_path, {"API_KEYS": ","}) == expected
        assert problems(tmp_path, {"API_KEYS": "keys.txt"}) == expected

    def test_every_wrong_line_of_the_file_is_named_and_none_is_shown(self, tmp_path: Path) -> None:
        lines = [
            ONE,
            f"alice:{ONE}",
            f"bob:{sha(ONE).hex()}",
            f"two words:{sha(TWO).hex()}",
            "carol:" + "0" * 63,
        ]
        (tmp_path / "keys.txt").write_text("\n".join(lines))
        found = problems(tmp_path, {"API_KEYS": "keys.txt"})
        assert [re.sub(r" of its file.*", "", problem) for problem in found] == [
            "API_KEYS: line 1",
            "API_KEYS: line 2",
            "API_KEYS: line 4",
            "API_KEYS: line 5",
        ]
        assert ONE not in "".join(found)

    def test_a_name_or_key_given_twice_is_a_problem(self, tmp_path: Path) -> None:
        assert problems(tmp_path, {"API_KEYS": f"{ONE},{ONE}"}) == [
            "API_KEYS: key 2: the same key or name stands there twice"
        ]
        (tmp_path / "keys.txt").write_text(f"a:{sha(ONE).hex()}\na:{sha(TWO).hex()}\n")
        assert problems(tmp_path, {"API_KEYS": "keys.txt"}) == [
            "API_KEYS: line 2 of its file: the same key or name stands there twice"
        ]


class TestHosts:
    def test_names_are_read_in_small_letters(self, tmp_path: Path) -> None:
        value = "LLM.example.com., *.example.org,192.0.2.7, [::1],*"
        assert read(tmp_path, {"ALLOWED_HOSTS": value}).allowed_hosts == (
            "llm.example.com", "*.example.org", "192.0.2.7", "[::1]", "*",
        )  # fmt: skip

    @pytest.mark.parametrize(
        "value", ["https://example.com", "example.com:5000", "a b", "*.", "a.*.b", "ex%00"]
    )
    def test_what_is_no_name_is_a_problem(self, tmp_path: Path, value: str) -> None:
        [problem] = problems(tmp_path, {"ALLOWED_HOSTS": value})
        assert problem.startswith("ALLOWED_HOSTS: expected names such as llm.example.com")

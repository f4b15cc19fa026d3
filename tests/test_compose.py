"""docker-compose.yml as Docker's own Compose resolves it: who starts, who can be reached, and what a container may do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gateway import REPLICAS

from deploy.image import ROOT, read_image
from fallback.config.log import read_sources
from fallback.core.errors import Problem
from main import _parser

COMPOSE = Path(sys.executable).with_name("docker-compose")
PROGRAMS = (*REPLICAS, "dashboard", "fallback")
Services = dict[str, dict[str, Any]]


def resolved(folder: Path, *options: str, **variables: str) -> dict[str, Any]:
    """Return what Compose makes of the file."""
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), **variables}
    done = subprocess.run(
        [COMPOSE, *options, "config", "--format", "json"],
        cwd=folder, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    tree: dict[str, Any] = json.loads(done.stdout)
    return tree


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as a newcomer has it."""
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    return tmp_path


@pytest.fixture
def everything(folder: Path) -> Services:
    services: Services = resolved(folder, "--profile", "scale")["services"]
    return services


def test_plain_up_starts_one_program_on_the_loopback_port_5000(folder: Path) -> None:
    services = resolved(folder)["services"]
    assert list(services) == ["fallback"]
    (port,) = services["fallback"]["ports"]
    assert (port["host_ip"], port["published"], port["target"]) == ("127.0.0.1", "5000", 5000)
    assert services["fallback"]["build"]["context"] == str(folder)


def test_profile_scale_has_three_replicas_one_dashboard_valkey_and_nginx(everything: Services) -> None:
    scaled = {name for name, service in everything.items() if service.get("profiles") == ["scale"]}
    assert scaled == {*REPLICAS, "dashboard", "valkey", "gateway"}


def test_nothing_is_published_but_on_loopback_and_never_one_port_twice(everything: Services) -> None:
    ports = [(name, port) for name, service in everything.items() for port in service.get("ports", ())]
    assert {name for name, _ in ports} == {"fallback", "gateway"}
    assert {port["host_ip"] for _, port in ports} == {"127.0.0.1"}
    assert len({port["published"] for _, port in ports}) == len(ports)


def test_publishing_to_others_takes_a_word(folder: Path) -> None:
    services = resolved(folder, PUBLISH="0.0.0.0", PUBLISH_PORT="80")["services"]  # noqa: S104 - for Compose
    (port,) = services["fallback"]["ports"]
    assert (port["host_ip"], port["published"]) == ("0.0.0.0", "80")  # noqa: S104


def test_no_container_may_more_than_it_needs(everything: Services) -> None:
    for name, service in everything.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        assert "cap_add" not in service, name
        assert service["restart"] == "unless-stopped", name
        assert all(volume["type"] != "bind" or volume["read_only"] for volume in service["volumes"]), name
    for name in ("gateway", "valkey"):
        assert int(everything[name]["user"].partition(":")[0]) > 0


def test_containers_get_longer_to_stop_than_the_program_takes(everything: Services) -> None:
    assert {service["stop_grace_period"] for service in everything.values()} == {"20s"}


def test_images_of_others_are_pinned_and_ours_is_never_fetched(everything: Services) -> None:
    for name, service in everything.items():
        image, _, tag = service["image"].partition(":")
        if name in PROGRAMS:
            assert image == "llm-fallback"
            assert "build" in service or service["pull_policy"] == "never"
        else:
            assert tag.split("-")[0].count(".") == 2, service["image"]


def test_one_build_of_an_image_name(everything: Services) -> None:
    built = [service["image"] for service in everything.values() if "build" in service]
    assert sorted(built) == ["llm-fallback", "llm-fallback:scale"]


def test_keys_come_from_the_env_file_where_there_is_one_and_stand_nowhere_else(folder: Path) -> None:
    assert "API_KEYS" not in resolved(folder)["services"]["fallback"]["environment"]
    (folder / ".env").write_text("API_KEYS=only-for-this-test-1\nPORT=8123\nHOST=127.0.0.1\n")
    services = resolved(folder, "--profile", "scale")["services"]
    for name in PROGRAMS:
        given = services[name]["environment"]
        assert given["API_KEYS"] == "only-for-this-test-1"
        # What the file says about this machine does not count inside.
        assert (given["HOST"], given["PORT"]) == ("0.0.0.0", "5000")  # noqa: S104
    for name in ("gateway", "valkey"):
        assert "API_KEYS" not in (services[name].get("environment") or {})
    text = (ROOT / "docker-compose.yml").read_text()
    assert not any(
        f"{name}:" in text or f"{name}=:" in text for name in ("API_KEYS", "SESSION_SECRET", "GROQ_API_KEY")
    )


def test_replicas_share_state_and_keep_logs_of_their_own_which_the_dashboard_reads(
    everything: Services,
) -> None:
    for name in (*REPLICAS, "dashboard"):
        service = everything[name]
        assert service["environment"]["STATE_URL"] == "redis://valkey:6379/0"
        assert service["environment"]["INSTANCE_NAME"] == name
        assert {"source": name, "target": "/data"}.items() <= service["volumes"][0].items()
        assert set(service["networks"]) == {"inside", "state"}
    problems: list[Problem] = []
    logs = read_sources(everything["dashboard"]["environment"], Path("/app"), problems)
    assert problems == []
    mounted = {volume["target"]: volume for volume in everything["dashboard"]["volumes"]}
    assert logs == ("/data", *(f"/replicas/{name}" for name in REPLICAS))
    for name in REPLICAS:
        assert mounted[f"/replicas/{name}"]["source"] == name
        assert mounted[f"/replicas/{name}"]["read_only"] is True


def test_valkey_is_reached_by_the_program_alone(folder: Path) -> None:
    tree = resolved(folder, "--profile", "scale")
    assert tree["networks"]["state"]["internal"] is True
    there = {name for name, service in tree["services"].items() if "state" in service.get("networks", {})}
    assert there == {*REPLICAS, "dashboard", "valkey"}
    assert list(tree["services"]["valkey"]["networks"]) == ["state"]


def test_commands_are_ones_the_program_takes(everything: Services) -> None:
    for name in PROGRAMS:
        options = _parser().parse_args(everything[name]["command"])
        assert not options.insecure
        assert options.published == "127.0.0.1"
        assert options.api_only == (name in REPLICAS)
    image = read_image((ROOT / "Dockerfile").read_text())
    assert {everything[name]["volumes"][0]["target"] for name in PROGRAMS} == set(image.final.volumes)
    assert everything["fallback"]["ports"][0]["target"] in image.final.ports


def test_gateway_waits_for_whom_its_configuration_names(everything: Services) -> None:
    upstreams = (ROOT / "deploy/nginx/upstreams.conf").read_text()
    for name in everything["gateway"]["depends_on"]:
        assert f"server {name}:5000 resolve" in upstreams
    assert set(everything["gateway"]["depends_on"]) == {*REPLICAS, "dashboard"}
    for volume in everything["gateway"]["volumes"]:
        source = Path(volume["source"])
        assert (ROOT / "deploy" / "nginx" / source.name).is_file()
        assert volume["target"] == f"/etc/nginx/{source.name}"
    (port,) = everything["gateway"]["ports"]
    assert f"listen {port['target']};" in (ROOT / "deploy/nginx/nginx.conf").read_text()

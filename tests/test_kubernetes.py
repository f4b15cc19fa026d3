"""The manifests in deploy/kubernetes: valid by the schemas of Kubernetes, of one piece, and true to the program."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deploy.image import ROOT, read_image
from fallback.api.closing import FORCE_S
from fallback.config import load
from fallback.config.log import read_sources
from main import _parser

FOLDER = ROOT / "deploy" / "kubernetes"
OLDEST, NEWEST = "1.30", kubernetes_validate.latest_version()
PROGRAMS = ("api", "dashboard")
SERVER_WAITS_S = 10
"""timeout_graceful_shutdown of fallback/api/server.py."""
Thing = dict[str, Any]


def read(name: str) -> list[Thing]:
    return [thing for thing in yaml.safe_load_all((FOLDER / name).read_text()) if thing]


KUSTOMIZATION = read("kustomization.yaml")[0]
APPLIED = [thing for name in KUSTOMIZATION["resources"] for thing in read(name)]
EVERYTHING = [*APPLIED, *read("secret.yaml")]


def named(thing: Thing) -> str:
    return f"{thing['kind']}/{thing['metadata']['name']}"


def of_kind(kind: str) -> dict[str, Thing]:
    return {thing["metadata"]["name"]: thing for thing in EVERYTHING if thing["kind"] == kind}


def pod(deployment: str) -> Thing:
    found: Thing = of_kind("Deployment")[deployment]["spec"]["template"]
    return found


def container(deployment: str) -> Thing:
    (found,) = pod(deployment)["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def labels_of_pods() -> dict[str, dict[str, str]]:
    return {name: pod(name)["metadata"]["labels"] for name in of_kind("Deployment")}


def selected(selector: Thing) -> set[str]:
    """Return the deployments whose pods a selector of labels finds."""
    wanted = selector.get("matchLabels", {})
    among = selector.get("matchExpressions", [])
    return {
        name
        for name, labels in labels_of_pods().items()
        if wanted.items() <= labels.items()
        and all(each["operator"] == "In" and labels.get(each["key"]) in each["values"] for each in among)
    }


def port_names(deployment: str) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container(deployment)["ports"]}


@pytest.mark.parametrize("thing", EVERYTHING, ids=named)
def test_manifest_is_valid(thing: Thing) -> None:
    kubernetes_validate.validate(thing, NEWEST, strict=True)


@pytest.mark.parametrize("kind", ["Deployment", "HorizontalPodAutoscaler"])
def test_manifest_is_valid_for_the_oldest_cluster_that_knows_how_to_sleep(kind: str) -> None:
    for thing in of_kind(kind).values():
        kubernetes_validate.validate(thing, OLDEST, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(of_kind("Deployment")["api"], "1.28", strict=True)


def test_validation_would_notice_a_misspelt_field() -> None:
    wrong = yaml.safe_load(yaml.safe_dump(of_kind("Deployment")["api"]))
    wrong["spec"]["template"]["spec"]["containers"][0]["livenessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, NEWEST, strict=True)


def test_every_file_is_applied_but_the_secret() -> None:
    files = {path.name for path in FOLDER.glob("*.yaml")}
    assert files - set(KUSTOMIZATION["resources"]) == {"kustomization.yaml", "secret.yaml"}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_puts_them_together() -> None:
    done = subprocess.run(["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, check=False)
    if "unknown command" in done.stderr:
        pytest.skip("this kubectl is too old")
    assert done.returncode == 0, done.stderr
    made = [thing for thing in yaml.safe_load_all(done.stdout) if thing]
    assert len(made) == len(APPLIED)
    assert {thing["metadata"].get("namespace") for thing in made if thing["kind"] != "Namespace"} == {
        "llm-fallback"
    }


def test_kinds_are_all_there() -> None:
    assert {thing["kind"] for thing in EVERYTHING} == {
        "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "Ingress", "Namespace", "NetworkPolicy",
        "PersistentVolumeClaim", "PodDisruptionBudget", "Secret", "Service",
    }  # fmt: skip


def test_providers_are_the_shipped_ones_and_load(tmp_path: Path) -> None:
    text = of_kind("ConfigMap")["llm-fallback-config"]["data"]["providers.yaml"]
    assert text == (ROOT / "providers.yaml").read_text(encoding="utf-8"), "make manifests"
    (tmp_path / "providers.yaml").write_text(text, encoding="utf-8")
    settings = load(tmp_path / "providers.yaml", environ={})
    assert settings.providers[0].name == "groq_llama"


def test_secret_holds_names_alone() -> None:
    (secret,) = of_kind("Secret").values()
    assert set(secret["stringData"].values()) == {""}
    assert "data" not in secret
    example = (ROOT / ".env.example").read_text()
    for name in ("GROQ_API_KEY", "TOGETHER_LLAMA_API_KEY", "API_KEYS", "SESSION_SECRET"):
        assert name in secret["stringData"]
        assert f"{name}=" in example


def variables() -> Iterator[str]:
    for secret in of_kind("Secret").values():
        yield from secret["stringData"]
    yield from of_kind("ConfigMap")["llm-fallback-variables"]["data"]
    for name in PROGRAMS:
        yield from (entry["name"] for entry in container(name)["env"])


@pytest.mark.parametrize("name", sorted(set(variables())))
def test_variable_is_documented(name: str) -> None:
    told = [ROOT / ".env.example", *sorted((ROOT / "docs").glob("*.md"))]
    assert any(re.search(rf"\b{name}\b", path.read_text(encoding="utf-8")) for path in told)


def test_what_a_pod_takes_from_elsewhere_exists() -> None:
    for name in PROGRAMS:
        spec = pod(name)["spec"]
        for source in container(name)["envFrom"]:
            ((kind, reference),) = source.items()
            assert reference["name"] in of_kind({"secretRef": "Secret", "configMapRef": "ConfigMap"}[kind])
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert volumes["config"]["configMap"]["name"] in of_kind("ConfigMap")
        assert volumes["usage"]["persistentVolumeClaim"]["claimName"] in of_kind("PersistentVolumeClaim")
        assert {mount["name"] for mount in container(name)["volumeMounts"]} == set(volumes)


def test_secrets_come_first_so_that_what_is_fixed_here_wins() -> None:
    for name in PROGRAMS:
        assert ["secretRef" in source for source in container(name)["envFrom"]] == [True, False]


def test_selectors_find_their_pods_and_ports_have_names() -> None:
    for name, deployment in of_kind("Deployment").items():
        assert selected(deployment["spec"]["selector"]) == {name}
        for constraint in pod(name)["spec"].get("topologySpreadConstraints", ()):
            assert selected(constraint["labelSelector"]) == {name}
    for name, service in of_kind("Service").items():
        assert selected({"matchLabels": service["spec"]["selector"]}) == {name}
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in port_names(name)
    (budget,) = of_kind("PodDisruptionBudget").values()
    assert selected(budget["spec"]["selector"]) == {"api"}


def test_ingress_leads_to_services_and_the_name_is_an_allowed_one() -> None:
    allowed = of_kind("ConfigMap")["llm-fallback-variables"]["data"]["ALLOWED_HOSTS"]
    paths = {}
    for ingress in of_kind("Ingress").values():
        (rule,) = ingress["spec"]["rules"]
        assert rule["host"] == allowed
        assert ingress["spec"]["tls"][0]["hosts"] == [allowed]
        for path in rule["http"]["paths"]:
            service = path["backend"]["service"]
            ports = of_kind("Service")[service["name"]]["spec"]["ports"]
            assert service["port"]["name"] in {port["name"] for port in ports}
            paths[path["path"]] = service["name"]
    # Neither the figures nor the probes are for everybody.
    assert paths == {"/v1": "api", "/api": "api", "/": "dashboard"}


def test_state_is_where_its_service_is() -> None:
    url = of_kind("ConfigMap")["llm-fallback-variables"]["data"]["STATE_URL"]
    (port,) = of_kind("Service")["valkey"]["spec"]["ports"]
    assert url == f"redis://valkey:{port['port']}/0"


def test_program_is_started_as_the_image_does_with_options_it_takes() -> None:
    image = read_image((ROOT / "Dockerfile").read_text()).final
    for name in PROGRAMS:
        made = container(name)
        options = _parser().parse_args(made.get("args", []))
        assert options.api_only == (name == "api")
        assert not options.insecure
        assert "command" not in made
        assert list(port_names(name).values()) == image.ports
        context = pod(name)["spec"]["securityContext"]
        assert f"{context['runAsUser']}:{context['runAsGroup']}" == image.user
        assert context["fsGroup"] == context["runAsGroup"]
        mounted = {mount["mountPath"] for mount in made["volumeMounts"]}
        assert {*image.volumes, image.env["TMPDIR"], "/app/providers.yaml"} <= mounted
    assert of_kind("ConfigMap")["llm-fallback-variables"]["data"]["PORT"] == str(image.ports[0])


def test_probes_ask_for_what_they_mean() -> None:
    for name in PROGRAMS:
        made = container(name)
        asked = {
            probe: made[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")
        }
        assert {probe: get["path"] for probe, get in asked.items()} == {
            "startupProbe": "/healthz",
            "livenessProbe": "/healthz",
            # Whoever switched the last provider off has to reach the dashboard to switch one on.
            "readinessProbe": "/readyz" if name == "api" else "/healthz",
        }
        assert {get["port"] for get in asked.values()} <= set(port_names(name))
        # A busy machine takes its time: at least a minute before it is given up on.
        assert made["startupProbe"]["periodSeconds"] * made["startupProbe"]["failureThreshold"] >= 60


def test_end_gives_answers_the_time_that_the_program_takes() -> None:
    server = (ROOT / "fallback" / "api" / "server.py").read_text()
    assert f"timeout_graceful_shutdown={SERVER_WAITS_S}" in server
    for name in PROGRAMS:
        before = container(name)["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod(name)["spec"]["terminationGracePeriodSeconds"] >= before + FORCE_S + SERVER_WAITS_S
        assert before > 0


@pytest.mark.parametrize("name", sorted(of_kind("Deployment")))
def test_pods_may_no_more_than_they_need(name: str) -> None:
    spec = pod(name)["spec"]
    context = spec["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    # Variables such as VALKEY_PORT=tcp://... would be taken for settings.
    assert spec["enableServiceLinks"] is False
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container(name)["resources"]["requests"]) == {"cpu", "memory"}
    assert "memory" in container(name)["resources"]["limits"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)


def test_images_are_pinned() -> None:
    assert container("valkey")["image"].count(".") >= 2
    (image,) = KUSTOMIZATION["images"]
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert image["newTag"] == version[1]
    assert {container(name)["image"] for name in PROGRAMS} == {image["name"]}


def test_autoscaler_decides_how_many_replicas_and_the_budget_leaves_it_room() -> None:
    (scaler,) = of_kind("HorizontalPodAutoscaler").values()
    assert scaler["spec"]["scaleTargetRef"]["name"] == "api"
    assert "replicas" not in of_kind("Deployment")["api"]["spec"]
    (budget,) = of_kind("PodDisruptionBudget").values()
    assert budget["spec"]["minAvailable"] < scaler["spec"]["minReplicas"]
    assert "cpu" in container("api")["resources"]["requests"]


def test_network_is_closed_but_for_those_who_need_it() -> None:
    policies = of_kind("NetworkPolicy")
    assert policies["nobody-else"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    assert selected(policies["program"]["spec"]["podSelector"]) == set(PROGRAMS)
    assert selected(policies["valkey"]["spec"]["podSelector"]) == {"valkey"}
    (rule,) = policies["valkey"]["spec"]["ingress"]
    assert selected(rule["from"][0]["podSelector"]) == set(PROGRAMS)
    for name, target in (("program", "api"), ("program", "dashboard"), ("valkey", "valkey")):
        for port in policies[name]["spec"]["ingress"][0]["ports"]:
            assert port["port"] in port_names(target)


def test_dashboard_reads_the_log_of_every_replica() -> None:
    (own,) = [mount for mount in container("api")["volumeMounts"] if mount["mountPath"] == "/data"]
    assert own["subPathExpr"] == "$(INSTANCE_NAME)"
    mounts = {mount["mountPath"]: mount for mount in container("dashboard")["volumeMounts"]}
    assert mounts["/usage"] == {"name": own["name"], "mountPath": "/usage", "readOnly": True}
    assert mounts["/data"]["name"] == own["name"]
    given = {entry["name"]: entry.get("value") for entry in container("dashboard")["env"]}
    assert read_sources({"USAGE_LOGS": str(given["USAGE_LOGS"])}, Path("/app"), []) == ("/usage/*",)
    claim = of_kind("PersistentVolumeClaim")[own["name"]]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]

"""What a cluster and compose are told: valid, hardened, and nowhere at odds with the server or with each other."""

from __future__ import annotations

import copy
import gzip
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import jsonschema
import kubernetes_validate
import pytest
import yaml
from conftest import PROJECT

from serving import routes
from serving.settings import FILE, TABLE, Settings

Manifest = dict[str, Any]

DEPLOY: Final = PROJECT / "deploy"
KUBERNETES: Final = DEPLOY / "kubernetes"
MONITORING: Final = DEPLOY / "monitoring"
OVERLAYS: Final = ("cpu", "dev", "gpu")
SCHEMAS: Final = PROJECT.parent / "shared" / "schemas"
VERSION: Final = kubernetes_validate.latest_version()
CUSTOM: Final = ("kserve.io", "monitoring.coreos.com")  # what no cluster has by itself
NO_RESOURCES: Final = ("kustomize.config.k8s.io",)  # read by kubectl alone


def missing(what: str) -> None:
    """Skips the test; in CI, where all must be there, fails it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing, and CI must not skip")
    pytest.skip(f"{what} is missing")


def command(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        missing(name)
    assert found is not None
    return found


def documents(text: str) -> list[Manifest]:
    return [document for document in yaml.load_all(text, yaml.CSafeLoader) if document is not None]


@lru_cache
def rendered(overlay: str) -> tuple[Manifest, ...]:
    """What `kubectl apply -k` would send."""
    done = subprocess.run(
        [command("kubectl"), "kustomize", KUBERNETES / "overlays" / overlay], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return tuple(documents(done.stdout))


def written() -> list[Path]:
    """Every manifest that stands whole in its file, and not as a patch."""
    patches = {
        (path.parent / patch["path"]).resolve()
        for path in DEPLOY.rglob("kustomization.yaml")
        for document in documents(path.read_text())
        for patch in document.get("patches", ())
    }
    return sorted(
        path
        for path in DEPLOY.rglob("*.yaml")
        if path.resolve() not in patches and any("kind" in one for one in documents(path.read_text()))
    )


@lru_cache
def schema_of(kind: str, version: str) -> Manifest:
    """A custom resource's schema, out of its definition."""
    folder = Path(os.environ.get("SAMEDIGIT_SCHEMAS", SCHEMAS))
    if not folder.is_dir():
        missing(str(folder))
    for path in folder.glob("*.yaml.gz"):
        [definition] = documents(gzip.decompress(path.read_bytes()).decode())
        if definition["spec"]["names"]["kind"] == kind:
            [schema] = [
                one["schema"]["openAPIV3Schema"] for one in definition["spec"]["versions"] if one["name"] == version
            ]
            return dict(schema)
    raise AssertionError(f"{folder} has no definition of {kind}")


def unknown_fields(value: Any, schema: Manifest, at: str = "") -> Iterator[str]:
    """Fields that a custom resource's schema does not name: the cluster would drop them and say nothing."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from unknown_fields(item, schema.get("items", {}), f"{at}[{index}]")
    elif isinstance(value, dict):
        known, rest = schema.get("properties", {}), schema.get("additionalProperties")
        for name, item in value.items():
            if at == "" and name in ("apiVersion", "kind", "metadata"):
                continue
            if name in known:
                yield from unknown_fields(item, known[name], f"{at}.{name}")
            elif isinstance(rest, dict):
                yield from unknown_fields(item, rest, f"{at}.{name}")
            elif not rest:
                yield f"{at}.{name}"


def mistakes(manifest: Manifest) -> list[str]:
    """What the schema of its kind finds wrong with a manifest."""
    group, _, version = manifest["apiVersion"].rpartition("/")
    if not group.endswith(CUSTOM):
        try:
            kubernetes_validate.validate(manifest, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            return [str(error)]
        return []
    schema = schema_of(manifest["kind"], version)
    wrong = jsonschema.Draft202012Validator(schema).iter_errors(manifest)
    return [*(f"{error.json_path}: {error.message}" for error in wrong), *unknown_fields(manifest, schema)]


def of_kind(manifests: tuple[Manifest, ...], kind: str) -> list[Manifest]:
    return [one for one in manifests if one["kind"] == kind]


def pod_of(manifest: Manifest) -> Manifest:
    return dict(manifest["spec"]["template"]["spec"])


# Schemas


@pytest.mark.parametrize("path", written(), ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_manifest_is_one_of_its_kind(path: Path) -> None:
    for manifest in documents(path.read_text()):
        if not manifest["apiVersion"].startswith(NO_RESOURCES):
            assert mistakes(manifest) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_gives_manifests_of_their_kinds(overlay: str) -> None:
    manifests = rendered(overlay)
    assert {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"} <= {one["kind"] for one in manifests}
    for manifest in manifests:
        assert mistakes(manifest) == [], manifest["kind"]


def test_every_overlay_is_tested() -> None:
    assert {path.name for path in (KUBERNETES / "overlays").iterdir()} == set(OVERLAYS)


def test_a_misspelt_field_and_a_wrong_type_are_found_in_every_kind_that_there_is() -> None:
    seen = set()
    for path in written():
        for manifest in documents(path.read_text()):
            kind = manifest["kind"]
            if manifest["apiVersion"].startswith(NO_RESOURCES) or kind in seen or "spec" not in manifest:
                continue
            seen.add(kind)
            misspelt = copy.deepcopy(manifest)
            misspelt["spec"]["ports_"] = []
            assert mistakes(misspelt), kind
            wrong = copy.deepcopy(manifest)
            wrong["spec"] = 3
            assert mistakes(wrong), kind
    assert {"Deployment", "HorizontalPodAutoscaler", "ServiceMonitor", "PrometheusRule"} <= seen


# The pods


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_keep_to_the_restricted_profile_with_a_read_only_root(overlay: str) -> None:
    for manifest in of_kind(rendered(overlay), "Deployment"):
        pod = pod_of(manifest)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert all({"emptyDir", "secret", "persistentVolumeClaim"} & volume.keys() for volume in pod["volumes"])
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "privileged" not in context
            [tmp] = [mount for mount in container["volumeMounts"] if mount["mountPath"] == "/tmp"]
            [volume] = [one for one in pod["volumes"] if one["name"] == tmp["name"]]
            assert "sizeLimit" in volume["emptyDir"]
    [namespace] = of_kind(rendered(overlay), "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_runs_as_the_user_of_the_image(overlay: str) -> None:
    [user] = set(re.findall(r"^USER (\d+):\1$", (PROJECT / "docker/Dockerfile").read_text(), re.MULTILINE))
    for manifest in of_kind(rendered(overlay), "Deployment"):
        assert pod_of(manifest)["securityContext"]["runAsUser"] == int(user)


def variables(container: Manifest) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in container.get("env", ())}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_variable_of_ours_is_a_setting(overlay: str) -> None:
    known = {row.variable for row in TABLE} | {FILE}
    for manifest in of_kind(rendered(overlay), "Deployment"):
        for container in pod_of(manifest)["containers"]:
            ours = {name for name in variables(container) if name.startswith("SAMEDIGIT_")}
            assert ours
            assert ours <= known


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_has_time_to_hear_that_it_goes_to_answer_what_it_accepted_and_to_end(overlay: str) -> None:
    for manifest in of_kind(rendered(overlay), "Deployment"):
        pod = pod_of(manifest)
        [container] = pod["containers"]
        slept = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        grace = int(variables(container).get("SAMEDIGIT_GRACE_SECONDS", Settings().grace_seconds))
        probe = container["readinessProbe"]
        assert slept >= probe["periodSeconds"] * probe["failureThreshold"]
        assert grace * 1000 >= Settings().deadline_ms  # what waits for a model as long as it may
        assert pod["terminationGracePeriodSeconds"] >= slept + grace + 5


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_probes_and_services_name_ports_of_the_pod_and_paths_that_need_no_key(overlay: str) -> None:
    manifests = rendered(overlay)
    [deployment] = of_kind(manifests, "Deployment")
    [container] = pod_of(deployment)["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"data": Settings().data_port, "api": 3000}
    for name, path in (("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
        asked = container[name]["httpGet"]
        assert asked == {"path": path, "port": "data"}
        route, _ = routes.find("GET", path)
        assert route.open
        assert route.always
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for service in of_kind(manifests, "Service"):
        assert service["spec"]["selector"].items() <= labels.items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports.keys()
    for budget in of_kind(manifests, "PodDisruptionBudget"):
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for policy in of_kind(manifests, "NetworkPolicy"):
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
        assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} <= ports.keys()
    for autoscaler in of_kind(manifests, "HorizontalPodAutoscaler"):
        assert autoscaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
        assert "replicas" not in deployment["spec"]  # which an apply would set back


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_prometheus_scrapes_one_port_of_one_service_with_the_key_that_the_pods_know(overlay: str) -> None:
    manifests = rendered(overlay)
    [monitor] = of_kind(manifests, "ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    [service] = [one for one in of_kind(manifests, "Service") if wanted <= one["metadata"]["labels"].items()]
    assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "samedigit"
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert routes.find("GET", endpoint["path"])[0].answers == "metrics"
    [deployment] = of_kind(manifests, "Deployment")
    [container] = pod_of(deployment)["containers"]
    [given] = [one["valueFrom"]["secretKeyRef"] for one in container["env"] if one["name"] == "SAMEDIGIT_KEYS"]
    assert endpoint["authorization"]["credentials"] == given
    [volume] = [one for one in pod_of(deployment)["volumes"] if one["name"] == "keys"]
    [mount] = [one for one in container["volumeMounts"] if one["name"] == "keys"]
    assert "subPath" not in mount  # a file mounted by itself never changes
    [item] = volume["secret"]["items"]
    assert variables(container)["SAMEDIGIT_KEYS_FILE"] == f"{mount['mountPath']}/{item['path']}"
    [example] = documents((KUBERNETES / "components/keys/secret.example.yaml").read_text())
    assert example["metadata"]["name"] == given["name"] == volume["secret"]["secretName"]
    assert example["stringData"].keys() == {given["key"], item["key"]}

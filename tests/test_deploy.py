"""What a cluster and compose are told: valid, hardened, and nowhere at odds with the server or with each other."""

from __future__ import annotations

import copy
import gzip
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import check_jsonschema
import jsonschema
import kubernetes_validate
import numpy as np
import orjson
import promql_parser
import pytest
import typer
import yaml
from conftest import PROJECT, python
from exchanges import exchange, inference
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from servers import JSON, body, serving
from small_models import keep
from test_metrics import Model, Queue, statistics
from typer.core import TyperGroup

from digits.mnist import DATA_DIR_VARIABLE
from samedigit.cli import app
from serving import routes
from serving.metrics import Metrics
from serving.settings import FILE, OTHERS, TABLE, Settings
from training.recipes import RECIPES
from training.study import Share

Manifest = dict[str, Any]

DEPLOY: Final = PROJECT / "deploy"
KUBERNETES: Final = DEPLOY / "kubernetes"
MONITORING: Final = DEPLOY / "monitoring"
OVERLAYS: Final = ("cpu", "dev", "gpu")
JOBS: Final = ("load", "mnist", "study", "study/report", "study/look")
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


def rendered(overlay: str) -> tuple[Manifest, ...]:
    return kustomized(f"overlays/{overlay}")


@lru_cache
def kustomized(folder: str) -> tuple[Manifest, ...]:
    """What `kubectl apply -k` would send."""
    done = subprocess.run(
        [command("kubectl"), "kustomize", KUBERNETES / folder], capture_output=True, text=True, timeout=60
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
        if "path" in patch
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


def nothing(value: Any, at: str = "") -> Iterator[str]:
    """Fields that have no value: the schemas let them pass, and what should have been there is missing."""
    if value is None:
        yield f"{at} is empty"
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from nothing(item, f"{at}[{index}]")
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from nothing(item, f"{at}.{name}")


def mistakes(manifest: Manifest) -> list[str]:
    """What the schema of its kind finds wrong with a manifest, and what is empty."""
    group, _, version = manifest["apiVersion"].rpartition("/")
    if not group.endswith(CUSTOM):
        try:
            kubernetes_validate.validate(manifest, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            return [str(error)]
        return list(nothing(manifest))
    schema = schema_of(manifest["kind"], version)
    wrong = jsonschema.Draft202012Validator(schema).iter_errors(manifest)
    found = [f"{error.json_path}: {error.message}" for error in wrong]
    return [*found, *unknown_fields(manifest, schema), *nothing(manifest)]


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


@pytest.mark.parametrize("folder", JOBS)
def test_what_is_run_beside_the_service_is_whole(folder: str) -> None:
    """Each folder by itself, with every file of it."""
    manifests = kustomized(folder)
    files = [path for path in (KUBERNETES / folder).glob("*.yaml") if path.name != "kustomization.yaml"]
    assert len(manifests) == sum(len(documents(path.read_text())) for path in files)
    for manifest in manifests:
        assert mistakes(manifest) == [], manifest["kind"]
        assert "namespace" not in manifest["metadata"]  # -n says it


def test_a_field_without_a_value_is_found() -> None:
    [autoscaler] = documents((KUBERNETES / "components/autoscale-cpu/autoscaler.yaml").read_text())
    autoscaler["spec"]["metrics"].append({"type": "Pods", "pods": None})
    assert mistakes(autoscaler) == [".spec.metrics[1].pods is empty"]


def test_every_overlay_is_tested() -> None:
    assert {path.name for path in (KUBERNETES / "overlays").iterdir()} == {*OVERLAYS, "canary"}


def test_a_canary_is_one_pod_behind_the_same_service_that_no_other_deployment_takes_for_its_own() -> None:
    [canary] = rendered("canary")
    assert mistakes(canary) == []
    assert canary["spec"]["replicas"] == 1
    stable_manifests = rendered("cpu")
    [stable] = of_kind(stable_manifests, "Deployment")
    assert canary["metadata"]["namespace"] == stable["metadata"]["namespace"]
    assert canary["metadata"]["name"] != stable["metadata"]["name"]
    labels = {one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"] for one in (canary, stable)}
    for owner in (canary, stable):
        wanted = owner["spec"]["selector"]["matchLabels"].items()
        assert [name for name, of in labels.items() if wanted <= of.items()] == [owner["metadata"]["name"]]
    for service in of_kind(stable_manifests, "Service"):
        assert all(service["spec"]["selector"].items() <= of.items() for of in labels.values())
    [one], [other] = pod_of(canary)["containers"], pod_of(stable)["containers"]
    assert one["image"] != other["image"]
    assert one["env"] == other["env"]


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


# What is watched

Series = dict[str, set[str]]  # a metric's name, and the labels that it has
TARGET: Final = {"job", "instance", "namespace", "pod"}  # what Prometheus adds to what it scrapes


def series(text: str) -> Series:
    """What a scrape gives. The parser adds `_total` to every counter's name; Prometheus does not."""
    found: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name.removesuffix("_total") if sample.name.startswith("nv_") else sample.name
            found.setdefault(name, set()).update(sample.labels)
    return found


@lru_cache
def exported() -> Series:
    """What a worker exports that has answered, been asked too much, and read a picture."""
    metrics = Metrics()
    metrics.answered(inference(), 200)
    metrics.answered(exchange(), 503)
    metrics.shed("queue")
    metrics.connected("data")
    return series(metrics.exposition([Model(Queue(statistics(1, {1: 1})))], 1).decode())


def rules() -> list[Manifest]:
    [document] = documents((MONITORING / "rules.yaml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


ALERTS: Final = [rule for rule in rules() if "alert" in rule]


def dashboard() -> Manifest:
    found: Manifest = orjson.loads((MONITORING / "dashboard.json").read_bytes())
    return found


def panel_queries() -> list[tuple[str, str]]:
    """Every query of the dashboard with its panel's title, as Grafana would ask it."""
    written = [(panel["title"], target["expr"]) for panel in dashboard()["panels"] for target in panel["targets"]]
    written += [("annotations", one["expr"]) for one in dashboard()["annotations"]["list"]]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert asked, variable
            written.append((variable["name"], f"count by ({asked[2]}) ({asked[1]})"))
    for name, value in (("$__rate_interval", "1m"), ("$__range", "1h"), ("$instance", ".*"), ("$model", ".*")):
        written = [(title, query.replace(name, value)) for title, query in written]
    return written


QUERIES: Final = [
    *((rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()),
    *panel_queries(),
]


def selectors(node: Any) -> Iterator[tuple[str, set[str]]]:
    """The metrics that an expression names, each with the labels that it asks for and is grouped by."""
    yield from _selectors(node, frozenset())


def _selectors(node: Any, grouped: frozenset[str]) -> Iterator[tuple[str, set[str]]]:
    match node:
        case promql_parser.VectorSelector():
            matchers = [*node.matchers.matchers, *(one for some in node.matchers.or_matchers for one in some)]
            names = [one.value for one in matchers if one.name == "__name__"]
            [name] = [node.name] if node.name else names
            yield name, {one.name for one in matchers if one.name != "__name__"} | grouped
        case promql_parser.MatrixSelector():
            yield from _selectors(node.vector_selector, grouped)
        case promql_parser.AggregateExpr():
            by = node.modifier
            if by is not None:
                assert by.type == promql_parser.AggModifierType.By, "without() hides which labels are there"
            yield from _selectors(node.expr, frozenset(by.labels) if by is not None else frozenset())
        case promql_parser.BinaryExpr():
            yield from _selectors(node.lhs, grouped)
            yield from _selectors(node.rhs, grouped)
        case promql_parser.Call():
            made = {node.args[1].val} if node.func.name == "label_replace" else set()
            for argument in node.args:
                yield from _selectors(argument, grouped - made)
        case promql_parser.ParenExpr() | promql_parser.UnaryExpr() | promql_parser.SubqueryExpr():
            yield from _selectors(node.expr, grouped)
        case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            pass
        case _:
            raise AssertionError(f"{type(node)} is not looked into")


def known_series(exported: Series) -> Series:
    """And what Prometheus makes: of a target, of alerts, and of recording rules, by what these group."""
    known = {name: labels | TARGET for name, labels in exported.items()}
    known |= {"up": TARGET, "ALERTS": {"alertname", "alertstate", "severity"}}
    for rule in rules():
        if "record" in rule:
            grouped = re.search(r"by \(([\w, ]+)\)", rule["expr"])
            assert grouped
            known[rule["record"]] = set(grouped[1].split(", ")) - {"le"}
    return known


@pytest.mark.parametrize(("title", "query"), QUERIES, ids=[title for title, _ in QUERIES])
def test_every_metric_and_label_that_a_rule_or_a_panel_names_is_exported(title: str, query: str) -> None:
    known = known_series(exported())
    named = list(selectors(promql_parser.parse(query)))
    assert named
    for name, labels in named:
        assert name in known, query
        assert labels <= known[name], query


@pytest.mark.slow
def test_a_running_server_exports_all_that_they_are_held_against(empty_home: Path) -> None:
    keep("numpy-sigmoid", 3)
    image = np.zeros((1, 28, 28), np.uint8)
    picture = io.BytesIO()
    Image.fromarray(np.eye(100, dtype=np.uint8) * 255).save(picture, "PNG")
    with (
        serving(empty_home, {"SAMEDIGIT_BACKENDS": "numpy", "SAMEDIGIT_MAX_RATE": "20"}) as server,
        server.client(server.data_port) as client,
    ):
        assert client.post("/predict/numpy", content=body(image), headers=JSON).status_code == 200
        assert client.post("/v2/models/numpy-sigmoid.numpy/infer", content=b"{}", headers=JSON).status_code == 400
        asked = client.post("/classify", content=picture.getvalue(), headers={"content-type": "image/png"})
        assert asked.status_code == 200
        assert 429 in {client.get("/models").status_code for _ in range(100)}
        live = series(client.get("/metrics").text)
    for name, labels in exported().items():
        assert name in live
        assert labels <= live[name], name


def test_a_metric_and_a_label_that_are_not_exported_are_found() -> None:
    query = 'sum by (le) (rate(samedigit_shed{reason="queue"}[5m])) / on (job) (up{color!="red"} > 1)'
    assert list(selectors(promql_parser.parse(query))) == [("samedigit_shed", {"reason", "le"}), ("up", {"color"})]
    assert "samedigit_shed" not in known_series(exported())


def test_the_autoscalers_metric_is_exported_and_the_adapters_rule_makes_it() -> None:
    folder = KUBERNETES / "components/autoscale-requests"
    [autoscaler] = documents((folder / "autoscaler.yaml").read_text())
    [metric] = autoscaler["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert name in exported()
    [rule] = documents((folder / "adapter.yaml").read_text())[0]["rules"]
    assert rule["name"]["as"] == name
    assert [of[0] for of in selectors(promql_parser.parse(rule["seriesQuery"]))] == [name]
    asked = rule["metricsQuery"]
    for template, value in (("<<.GroupBy>>", "pod"), ("<<.Series>>", name), ("<<.LabelMatchers>>", 'pod="a"')):
        asked = asked.replace(template, value)
    assert list(selectors(promql_parser.parse(asked))) == [(name, {"pod"})]


OPERATIONS: Final = (PROJECT / "docs/operations.md").read_text()


def test_every_metric_that_operations_speaks_of_is_exported() -> None:
    known = known_series(exported())
    named = set(re.findall(r"\b(?:samedigit_|samedigit:\w+:|process_)[a-z0-9_:]+[a-z0-9]", OPERATIONS))
    assert "samedigit_batch_images" in named
    histograms = {name.removesuffix("_bucket") for name in known}
    assert named <= known.keys() | histograms, named - known.keys() - histograms


def test_operations_says_of_every_reason_to_shed_what_to_do() -> None:
    code = "\n".join(path.read_text() for path in (PROJECT / "serving").rglob("*.py"))
    reasons = set(re.findall(r'shed\("(\w+)"\)', code))
    table = OPERATIONS.partition("### SamedigitShedding")[2].partition("###")[0]
    rows = re.findall(r"^\| (`.+?`) \|", table, re.MULTILINE)
    assert len(reasons) > 5
    assert {one for row in rows for one in re.findall(r"`(\w+)`", row)} == reasons


def test_the_two_autoscalers_differ_in_what_they_look_at_alone() -> None:
    of_requests, of_cpu = (
        documents((KUBERNETES / "components" / name / "autoscaler.yaml").read_text())[0]
        for name in ("autoscale-requests", "autoscale-cpu")
    )
    [metric] = of_cpu["spec"].pop("metrics")
    assert metric["resource"] == {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}
    del of_requests["spec"]["metrics"]
    assert of_cpu == of_requests


def test_the_operator_and_compose_have_the_same_rules() -> None:
    [rule] = documents((MONITORING / "prometheusrule.yaml").read_text())
    [document] = documents((MONITORING / "rules.yaml").read_text())
    assert rule["spec"] == document


def test_prometheus_takes_the_rules_and_raises_each_alert_when_it_should() -> None:
    files = sorted(MONITORING.glob("*.test.yaml"))
    for asked, given in (("check", [MONITORING / "rules.yaml"]), ("test", files)):
        done = subprocess.run(
            [command("promtool"), asked, "rules", *given], capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stdout + done.stderr
    raised = {
        one["alertname"]
        for path in files
        for test in documents(path.read_text())[0]["tests"]
        for one in test.get("alert_rule_test", ())
        if one["exp_alerts"]
    }
    assert raised == {rule["alert"] for rule in ALERTS}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_who_gets_up_what_to_do_and_where_to_look(rule: Manifest) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.*)$", (PROJECT / page).read_text(), flags=re.MULTILINE)
    assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert rule["alert"].lower() in anchor
    link = re.fullmatch(r"/d/(\w+)\?viewPanel=(\d+)", rule["annotations"]["dashboard"])
    assert link
    assert link[1] == dashboard()["uid"]
    [panel] = [one for one in dashboard()["panels"] if one["id"] == int(link[2])]
    asked = {name for target in panel["targets"] for name, _ in selectors(promql_parser.parse(_asked(target["expr"])))}
    assert asked


def _asked(query: str) -> str:
    return query.replace("$__rate_interval", "1m").replace("$__range", "1h")


def test_the_alert_on_connections_knows_how_many_there_may_be() -> None:
    [rule] = [one for one in ALERTS if one["alert"] == "SamedigitManyConnections"]
    assert f"0.8 * {Settings().max_connections}" in rule["expr"]
    assert f"is {Settings().max_connections} unless set" in rule["annotations"]["summary"]


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


# Compose


def compose() -> Manifest:
    [document] = documents((PROJECT / "docker/compose.yaml").read_text())
    return document


def compose_for_a_gpu() -> Manifest:
    [document] = documents((PROJECT / "docker/compose.gpu.yaml").read_text())
    return document


def test_composes_files_are_two() -> None:
    schema = Path(check_jsonschema.__file__).parent / "builtin_schemas/vendor/compose-spec.json"
    validator = jsonschema.Draft202012Validator(orjson.loads(schema.read_bytes()))
    for document in (compose(), compose_for_a_gpu()):
        assert [error.message for error in validator.iter_errors(document)] == []
    misspelt = compose() | {"services": {"samedigit": {"imagee": "x"}}}
    assert list(validator.iter_errors(misspelt))


def test_what_compose_mounts_is_there_and_what_it_waits_for_is_a_service() -> None:
    services = compose()["services"]
    named = set(compose()["volumes"])
    for name, service in services.items():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (PROJECT / "docker" / source).is_file(), source
            else:
                assert source in named or source.startswith("${"), source
        assert set(service.get("depends_on", ())) <= services.keys()
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        if name != "samedigit":
            assert service["profiles"]
            assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name


def test_compose_asks_for_a_gpu_as_the_gpu_overlay_does_and_for_that_alone() -> None:
    [(name, service)] = compose_for_a_gpu()["services"].items()
    assert name in compose()["services"]
    [device] = service.pop("deploy")["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    [deployment] = of_kind(rendered("gpu"), "Deployment")
    [container] = pod_of(deployment)["containers"]
    assert service.pop("environment").items() <= variables(container).items()
    assert service == {"image": "${SAMEDIGIT_IMAGE:-samedigit:gpu}"}


def test_composes_variables_are_settings_or_known() -> None:
    text = (PROJECT / "docker/compose.yaml").read_text()
    ours = {name for name in re.findall(r"\$\{(\w+)", text) if name.startswith("SAMEDIGIT_")}
    assert ours <= {row.variable for row in TABLE} | OTHERS
    assert compose()["services"]["samedigit"]["environment"].keys() <= {
        "OTEL_TRACES_EXPORTER",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_TRACES_SAMPLER",
        "OTEL_TRACES_SAMPLER_ARG",
    }


def test_composes_prometheus_scrapes_the_service_under_the_rules_name_and_grafana_asks_prometheus(
    tmp_path: Path,
) -> None:
    folder = PROJECT / "docker/monitoring"
    [config] = documents((folder / "prometheus.yaml").read_text())
    [job] = config["scrape_configs"]
    [discovery] = job["dns_sd_configs"]
    assert job["job_name"] == "samedigit"
    assert discovery["names"] == ["samedigit"]
    assert discovery["port"] == Settings().data_port
    [rule_file] = config["rule_files"]
    mounted = dict(volume.split(":")[:2][::-1] for volume in compose()["services"]["prometheus"]["volumes"])
    assert (folder.parent / mounted[rule_file]).resolve() == MONITORING / "rules.yaml"
    [source] = documents((folder / "datasource.yaml").read_text())[0]["datasources"]
    assert source["url"] == "http://prometheus:9090"
    [provider] = documents((folder / "dashboards.yaml").read_text())[0]["providers"]
    given = [volume.split(":")[1] for volume in compose()["services"]["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/samedigit.json" in given
    [collector] = documents((folder / "collector.yaml").read_text())
    port = collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"].rpartition(":")[2]
    endpoint = compose()["services"]["samedigit"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
    assert endpoint == f"http://collector:{port}"
    (tmp_path / "prometheus.yaml").write_text(
        (folder / "prometheus.yaml").read_text().replace(rule_file, str(MONITORING / "rules.yaml"))
    )
    done = subprocess.run(
        [command("promtool"), "check", "config", tmp_path / "prometheus.yaml"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# Dockerfiles and scripts


@pytest.mark.parametrize("path", sorted((PROJECT / "docker").glob("*Dockerfile")), ids=lambda path: path.name)
def test_dockerfiles_are_clean(path: Path) -> None:
    done = subprocess.run([tool("hadolint"), path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_what_dockerfiles_copy_is_let_into_the_build() -> None:
    let_in = set(re.findall(r"^!(\S+)$", (PROJECT / ".dockerignore").read_text(), re.MULTILINE))
    copied = {
        source
        for path in (PROJECT / "docker").glob("*Dockerfile")
        for source in re.findall(r"^COPY ([\w./]+) ", path.read_text(), re.MULTILINE)
    }
    assert {"digits", "training", "requirements/load.txt"} <= copied
    for source in copied:
        assert any(source == one or source.startswith(f"{one}/") for one in let_in), source


def test_shell_scripts_are_clean() -> None:
    scripts = [
        path
        for folder in (PROJECT / "docker", DEPLOY, PROJECT / ".ci")
        for path in folder.rglob("*")
        if path.is_file() and re.match(rb"#!.*\b(ba)?sh\b", path.read_bytes()[:40])
    ]
    assert len(scripts) >= 2
    done = subprocess.run([tool("shellcheck"), *scripts], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def tool(name: str) -> Path:
    """A program that pip brought."""
    found = Path(sys.executable).parent / name
    if not found.exists():
        missing(name)
    return found


# The pods


def pods() -> list[tuple[str, Manifest]]:
    """Every pod that is asked for, by overlays, load and KServe."""
    found = []
    for overlay in (*OVERLAYS, "canary"):
        found += [(overlay, pod_of(one)) for one in of_kind(rendered(overlay), "Deployment")]
    for folder in JOBS:
        found += [(f"{folder}: {one['metadata']['name']}", pod_of(one)) for one in of_kind(kustomized(folder), "Job")]
        found += [(f"{folder}: {one['metadata']['name']}", one["spec"]) for one in of_kind(kustomized(folder), "Pod")]
    for path in (DEPLOY / "kserve").glob("*.yaml"):
        for one in documents(path.read_text()):
            pod = one["spec"].get("predictor", one["spec"])
            if "containers" in pod:
                found.append((path.name, pod))
    assert len(found) >= 10
    return found


def test_pods_keep_to_the_restricted_profile_with_a_read_only_root() -> None:
    for name, pod in pods():
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        assert all({"emptyDir", "secret", "persistentVolumeClaim"} & volume.keys() for volume in pod["volumes"]), name
        for container in pod["containers"]:
            context = pod.get("securityContext", {}) | container["securityContext"]
            assert context["runAsNonRoot"] is True, name
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert "privileged" not in context, name
            [tmp] = [mount for mount in container["volumeMounts"] if mount["mountPath"] == "/tmp"]
            [volume] = [one for one in pod["volumes"] if one["name"] == tmp["name"]]
            assert "sizeLimit" in volume["emptyDir"], name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_namespace_refuses_pods_that_do_not(overlay: str) -> None:
    [namespace] = of_kind(rendered(overlay), "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for manifest in rendered(overlay):
        if manifest["kind"] != "Namespace":
            assert manifest["metadata"]["namespace"] == namespace["metadata"]["name"]


def test_a_pod_runs_as_the_user_of_the_image() -> None:
    users = {
        int(user)
        for path in (PROJECT / "docker").glob("*Dockerfile")
        for user in re.findall(r"^USER (\d+):\1$", path.read_text(), re.MULTILINE)
    }
    assert len(users) == 1
    for name, pod in pods():
        for container in pod["containers"]:
            assert {(pod.get("securityContext", {}) | container["securityContext"])["runAsUser"]} == users, name


def test_every_pod_says_what_it_takes() -> None:
    for name, pod in pods():
        for container in pod["containers"]:
            asked, most = container["resources"]["requests"], container["resources"]["limits"]
            assert {"cpu", "memory"} <= asked.keys(), name
            assert "memory" in most, name
            assert "cpu" not in most, name  # which would throttle


def variables(container: Manifest) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in container.get("env", ())}


def test_every_variable_of_ours_is_a_setting() -> None:
    known = {row.variable for row in TABLE} | {FILE, DATA_DIR_VARIABLE}
    for name, pod in pods():
        for container in pod["containers"]:
            assert {one for one in variables(container) if one.startswith("SAMEDIGIT_")} <= known, name


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


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pods_memory_holds_what_clients_may_make_of_it(overlay: str) -> None:
    [deployment] = of_kind(rendered(overlay), "Deployment")
    [container] = pod_of(deployment)["containers"]
    assert (
        not {"SAMEDIGIT_MAX_REQUEST_BYTES", "SAMEDIGIT_MAX_UNSENT_BYTES", "SAMEDIGIT_MAX_PIXELS"}
        & variables(container).keys()
    )
    of_clients = Settings().max_request_bytes + Settings().max_unsent_bytes
    picture = 190_000_000 * Settings().max_pixels // 40_000_000  # measured
    most = container["resources"]["limits"]["memory"]
    assert most.endswith("Gi")
    assert 360_000_000 + of_clients + picture <= int(most.removesuffix("Gi")) * 2**30


def test_a_pod_of_the_gpu_overlay_asks_for_a_gpu_and_no_other_does() -> None:
    for overlay in OVERLAYS:
        [deployment] = of_kind(rendered(overlay), "Deployment")
        [container] = pod_of(deployment)["containers"]
        gpus = container["resources"]["limits"].get("nvidia.com/gpu")
        assert (gpus, variables(container).get("SAMEDIGIT_DEVICE")) == (
            ("1", "cuda") if overlay == "gpu" else (None, None)
        )
        assert container["image"].endswith(":gpu") == (overlay == "gpu")


# KServe


def kserve(name: str) -> Manifest:
    [document] = documents((DEPLOY / "kserve" / name).read_text())
    return document


@pytest.mark.parametrize("name", ["runtime.yaml", "custom-predictor.yaml"])
def test_kserve_finds_its_container_its_one_port_and_whether_it_is_ready(name: str) -> None:
    document = kserve(name)
    pod = document["spec"].get("predictor", document["spec"])
    [container] = pod["containers"]
    assert container["name"] == "kserve-container"
    [port] = container["ports"]
    assert port["containerPort"] == Settings().data_port
    assert port["name"] in ("http1", "h2c")
    assert "lifecycle" not in container  # Knative refuses it, and drains by itself
    asked = container["readinessProbe"]["httpGet"]
    assert asked["port"] == port["containerPort"]
    route, _ = routes.find("GET", asked["path"])
    assert route.answers == "ready"
    assert route.open
    scraped = {**document["metadata"].get("annotations", {}), **document["spec"].get("annotations", {})}
    assert scraped["prometheus.kserve.io/port"] == str(port["containerPort"])
    assert routes.find("GET", scraped["prometheus.kserve.io/path"])[0].answers == "metrics"


def test_the_inference_service_asks_for_what_the_runtime_has() -> None:
    runtime, service = kserve("runtime.yaml"), kserve("service.yaml")
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    formats = [{"name": one["name"], "version": one["version"]} for one in runtime["spec"]["supportedModelFormats"]]
    assert model["modelFormat"] in formats
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    [container] = runtime["spec"]["containers"]
    assert variables(container)["SAMEDIGIT_MODEL_FOLDER"] == "/mnt/models"  # where KServe puts it


def test_knative_and_the_cluster_scale_by_the_same_number_of_requests_in_flight() -> None:
    [autoscaler] = documents((KUBERNETES / "components/autoscale-requests/autoscaler.yaml").read_text())
    [metric] = autoscaler["spec"]["metrics"]
    predictor = kserve("service.yaml")["spec"]["predictor"]
    assert predictor["scaleMetric"] == "concurrency"
    assert str(predictor["scaleTarget"]) == metric["pods"]["target"]["averageValue"]


# The study


def job_named(folder: str, name: str) -> Manifest:
    [found] = [one for one in of_kind(kustomized(folder), "Job") if one["metadata"]["name"] == name]
    return found


def words_of(job: Manifest, index: int | None = None) -> list[str]:
    """What a pod of it runs, as its shell reads it."""
    [container] = pod_of(job)["containers"]
    assert container["command"] == ["sh", "-c"]
    [line] = container["args"]
    assert line.startswith("exec python -m samedigit study ")  # exec: or else a signal would reach the shell alone
    done = subprocess.run(
        ["sh", "-c", line.replace("exec python -m samedigit study", r"printf '%s\n'", 1)],
        env={} if index is None else {"JOB_COMPLETION_INDEX": str(index)},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def study_arguments(words: list[str]) -> dict[str, Any]:
    """As the command line reads them."""
    asked = typer.main.get_command(app)
    assert isinstance(asked, TyperGroup)
    return dict(asked.commands["study"].make_context("study", list(words)).params)


def test_the_pods_of_a_study_have_each_share_once_and_the_report_is_of_the_same_study() -> None:
    job = job_named("study", "samedigit-study")
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"
    number = spec["completions"]
    shares = [study_arguments(words_of(job, index)) for index in range(number)]
    assert [Share.read(one.pop("share")) for one in shares] == [Share(index + 1, number) for index in range(number)]
    whole = study_arguments(words_of(job_named("study/report", "samedigit-study-report")))
    assert whole.pop("share") is None
    assert all(one == whole for one in shares)
    assert set(whole["recipes"]) <= RECIPES.keys()
    assert spec["parallelism"] <= number
    assert spec["backoffLimitPerIndex"] > 0
    assert "backoffLimit" not in spec  # one share's failures would count against all


@pytest.mark.parametrize(("folder", "name"), [("study", "samedigit-study"), ("study/report", "samedigit-study-report")])
def test_a_pod_of_a_study_runs_as_many_at_once_as_it_asks_cores_for_and_keeps_them_in_the_claim(
    folder: str, name: str
) -> None:
    job = job_named(folder, name)
    [container] = pod_of(job)["containers"]
    arguments = study_arguments(words_of(job, 0))
    assert container["resources"]["requests"]["cpu"] == str(arguments["jobs"])
    mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
    claims = {
        one["name"]: one["persistentVolumeClaim"] for one in pod_of(job)["volumes"] if "persistentVolumeClaim" in one
    }
    [claim] = of_kind(kustomized("study"), "PersistentVolumeClaim")
    assert claims[mounts[str(arguments["folder"])]["name"]] == {"claimName": claim["metadata"]["name"]}
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    data = mounts[variables(container)[DATA_DIR_VARIABLE]]
    assert data["readOnly"]
    [mnist] = of_kind(kustomized("mnist"), "PersistentVolumeClaim")
    assert claims[data["name"]]["claimName"] == mnist["metadata"]["name"]


def test_mnist_is_fetched_into_the_claim_by_what_the_image_has(tmp_path: Path) -> None:
    job = job_named("mnist", "mnist")
    [container] = pod_of(job)["containers"]
    given = variables(container)
    assert given[DATA_DIR_VARIABLE] == ""
    where = python(
        "from digits import mnist; print(mnist._cache())", environment={**os.environ, **given, "HOME": str(tmp_path)}
    ).strip()
    [mount] = [one for one in container["volumeMounts"] if one["name"] == "mnist"]
    assert mount["mountPath"] == where
    program, flag, code = container["command"]
    assert (program, flag) == ("python", "-c")
    python(code, environment=os.environ)  # from where the tests have it


def test_every_job_runs_an_image_that_a_dockerfile_says_it_makes_and_every_claim_is_there() -> None:
    made = {
        name
        for path in (PROJECT / "docker").glob("*.Dockerfile")
        for name in re.findall(r"^#.* -t (\S+) \.$", path.read_text(), re.MULTILINE)
    }
    claims = {
        one["metadata"]["name"] for folder in JOBS for one in of_kind(kustomized(folder), "PersistentVolumeClaim")
    }
    for folder in JOBS:
        for job in of_kind(kustomized(folder), "Job"):
            assert {container["image"] for container in pod_of(job)["containers"]} <= made
            asked = {
                one["persistentVolumeClaim"]["claimName"] for one in pod_of(job)["volumes"] if "emptyDir" not in one
            }
            assert asked <= claims, folder


# Load


def test_the_master_waits_for_as_many_workers_as_there_are_and_they_find_it() -> None:
    service, master = documents((KUBERNETES / "load/master.yaml").read_text())
    [workers] = documents((KUBERNETES / "load/workers.yaml").read_text())
    arguments = {one["metadata"]["name"]: pod_of(one)["containers"][0]["args"] for one in (master, workers)}
    assert f"--expect-workers={workers['spec']['completions']}" in arguments["samedigit-load-master"]
    assert workers["spec"]["parallelism"] == workers["spec"]["completions"]
    assert f"--master-host={service['metadata']['name']}" in arguments["samedigit-load-workers"]
    assert service["spec"]["selector"].items() <= master["spec"]["template"]["metadata"]["labels"].items()
    for found in arguments.values():
        assert found[-3:] == ["--host=http://samedigit:8000", "--protocol=v2-binary", "OnnxUser"]

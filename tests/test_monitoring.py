"""docs/monitoring/: the dashboard for Grafana and the alerts for Prometheus, against what is really exposed."""

import json
import os
import re
import shutil
import subprocess
from itertools import combinations

import pytest
import yaml
from anyio import fail_after, to_thread
from django.test import RequestFactory
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families

import django_ray.views
from django_ray.models import RaySchedule
from django_ray.options import Options
from django_ray_worker.showing.endpoint import Endpoint
from tests.supervisors import ROOT, Instant, living
from tests.test_metrics import INSERT, read

FOLDER = ROOT / "docs" / "monitoring"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES = {rule["alert"]: rule for rule in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]}
EXPRESSIONS = [
    *((panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]),
    *((variable["name"], variable["query"]["query"]) for variable in DASHBOARD["templating"]["list"][1:]),
    *((name, rule["expr"]) for name, rule in RULES.items()),
]
METRIC = re.compile(r"\bdjango_ray_\w+")
SELECTOR = re.compile(r"\b(?P<metric>django_ray_\w+)\{(?P<matchers>[^}]*)\}")
# What Prometheus adds to whatever it scrapes.
ADDED = {"job", "instance"}


def titles(panels):
    return [panel["title"] for panel in panels]


def labels_of(text):
    """Return the names of all samples, each with the names of its labels."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return {name: labels for name, labels in found.items() if not name.endswith("_created")}


@pytest.fixture
def of_the_view(transactional_db):
    RaySchedule.objects.create(name="closing", callable_path="tests.tasks.add", cron="0 20 * * *", lag=0.5)
    return labels_of(django_ray.views.metrics(RequestFactory().get("/")).text)


@pytest.fixture
async def of_a_supervisor(database, connect):
    executor, endpoint = Instant(), Endpoint("127.0.0.1", 0)
    executor.replicas = {"shop.models.Model": 1}
    async with living(database, executor, endpoint=endpoint, options=Options(prune_after=3600)):
        connect().execute(INSERT, ["default", 1])
        await executor.has_run(1)
        endpoint.observer.batched("default", 2)  # as a lane does
        with fail_after(20):
            found = {}
            while "django_ray_run_seconds_sum" not in found:
                found = labels_of((await to_thread.run_sync(read, endpoint.port, "/metrics"))[1])
    return found


@pytest.fixture
def exposed(of_the_view, of_a_supervisor):
    """Return the names of all metrics, each with the names of its labels."""
    assert not of_the_view.keys() & of_a_supervisor.keys()
    return of_the_view | of_a_supervisor


async def test_whatever_the_dashboard_and_the_alerts_ask_for_is_exposed(exposed):
    asked = {(where, name) for where, expression in EXPRESSIONS for name in METRIC.findall(expression)}
    assert [(where, name) for where, name in sorted(asked) if name not in exposed] == []
    assert {where for where, _ in asked} == {where for where, _ in EXPRESSIONS}


async def test_whatever_labels_they_select_and_group_by_are_there(exposed):
    for where, expression in EXPRESSIONS:
        for match in SELECTOR.finditer(expression):
            matched = re.findall(r"(\w+)\s*[=!]", re.sub(r'"[^"]*"', "", match["matchers"]))
            assert set(matched) <= exposed[match["metric"]], (where, match[0])
        labels = set.union(*(exposed[name] for name in METRIC.findall(expression))) | ADDED
        for group in re.findall(r"\bby \(([^)]*)\)", expression):
            assert set(re.split(r",\s*", group)) <= labels, (where, group)


async def test_every_metric_is_explained(exposed):
    page = (ROOT / "docs" / "monitoring.md").read_text()
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed}
    assert [name for name in sorted(families) if name not in page] == []


# The dashboard.


def test_grafana_reads_the_dashboard_and_loses_nothing_of_it():
    """By its own classes: what they do not know is not there any more when they write it."""
    register_default_plugins()
    again = json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD)))
    assert list(lost(DASHBOARD, again)) == []
    kinds = {type(panel).__name__ for panel in Dashboard.from_json(DASHBOARD).panels}
    assert kinds == {"Panel", "RowPanel"}


def lost(before, after, where=""):
    """Yield the paths of what is not there any more, or is another thing."""
    match before:
        case dict() if isinstance(after, dict):
            for name, value in before.items():
                yield from lost(value, after.get(name, "nothing"), f"{where}/{name}")
        case list() if isinstance(after, list) and len(before) == len(after):
            for index, pair in enumerate(zip(before, after, strict=True)):
                yield from lost(*pair, f"{where}/{index}")
        case _ if before != after:
            yield f"{where}: {before!r} became {after!r}"


def test_no_two_panels_have_one_id_or_one_place():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24, panel["title"]
    for one, other in combinations(DASHBOARD["panels"], 2):
        assert not overlap(one["gridPos"], other["gridPos"]), titles([one, other])


def overlap(one, other):
    return all(
        one[at] < other[at] + other[size] and other[at] < one[at] + one[size] for at, size in (("x", "w"), ("y", "h"))
    )


def test_every_panel_says_what_it_shows_in_which_unit_and_from_which_data_source():
    assert len(PANELS) > 20
    for panel in PANELS:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]
        for place in (panel, *panel["targets"]):
            assert place["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]), panel["title"]


def test_its_variables_are_the_data_source_the_backend_and_the_queue():
    source, *others = DASHBOARD["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    assert [one["name"] for one in others] == ["backend", "queue"]
    assert {one["datasource"]["uid"] for one in others} == {"${datasource}"}
    used = {name for _, expression in EXPRESSIONS for name in re.findall(r"\$(\w+)", expression)}
    assert used == {"backend", "queue", "__rate_interval"}


def test_a_legend_names_labels_that_its_expression_leaves():
    for panel in PANELS:
        for target in panel["targets"]:
            groups = re.findall(r"\bby \(([^)]*)\)", target["expr"])
            left = set(re.split(r",\s*", groups[0])) if groups else ADDED
            if target["expr"].startswith(("sum(", "count(", "max(")):
                left = set()
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert named <= left, (panel["title"], target["legendFormat"])


# The alerts.


@pytest.fixture
def promtool():
    """Run Prometheus's promtool in the folder of the alerts; return what it says, and fail when it does."""
    path = shutil.which("promtool") or shutil.which("promtool", path=ROOT / ".tools")
    if path is None:
        reason = "There is no promtool: install Debian's package prometheus, or run scripts/fetch_promtool.py."
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)

    def run(*arguments):
        done = subprocess.run([path, *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_prometheus_reads_the_alerts(promtool):
    assert f"{len(RULES)} rules found" in promtool("check", "rules", "alerts.yml")


def test_each_alert_fires_when_it_should_and_not_when_not(promtool):
    assert "SUCCESS" in promtool("test", "rules", "alerts.test.yml")
    fires, passes = set(), set()
    for case in yaml.safe_load((FOLDER / "alerts.test.yml").read_text())["tests"]:
        for check in case["alert_rule_test"]:
            (fires if check["exp_alerts"] else passes).add(check["alertname"])
    assert fires == passes == RULES.keys()


def test_prometheus_reads_what_the_dashboard_asks(promtool, tmp_path):
    """As Grafana asks it, with something in the place of its variables."""
    rules = [
        {"record": f"panel_{number}", "expr": expression.replace("$__rate_interval", "5m").replace("$", "")}
        for number, (_, expression) in enumerate(EXPRESSIONS)
        if "label_values" not in expression
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(tmp_path / "rules.yml"))


def test_every_alert_says_how_bad_it_is_what_is_wrong_and_what_to_do():
    for name, rule in RULES.items():
        assert rule["labels"]["severity"] in {"critical", "warning"}, name
        assert rule["annotations"].keys() == {"summary", "description"}, name
        assert all(text.endswith(".") for text in rule["annotations"].values()), name


def test_every_alert_is_explained():
    page = (ROOT / "docs" / "monitoring.md").read_text()
    assert [name for name in RULES if f"`{name}`" not in page] == []

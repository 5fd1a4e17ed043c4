"""The files around the code: workflows run targets of the Makefile, and what they and the pages name exists."""

import json
import os
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

import django_ray
from tests.supervisors import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# What later steps may read of an action.
OUTPUTS = {"actions/configure-pages@v5": {"base_url"}}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def targets():
    """Return the targets of the Makefile that say what they do."""
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def steps():
    """Return (workflow, step) for each step of all jobs."""
    return [
        (workflow.stem, step)
        for workflow in WORKFLOWS
        for job in yaml.safe_load(workflow.read_text())["jobs"].values()
        for step in job["steps"]
    ]


def test_each_step_of_a_workflow_runs_one_target_of_the_makefile():
    runs = [(name, step["run"]) for name, step in steps() if "run" in step]
    assert {name for name, _ in runs} == {"ci", "docs", "release"}
    strange = [(name, run) for name, run in runs if run.removeprefix("make ") not in targets()]
    assert strange == []


def test_what_is_not_run_is_an_action_of_the_host_and_no_step_is_anything_else():
    used = [step.get("uses", "actions/none@v0") for _, step in steps()]
    assert [action for action in used if not re.fullmatch(r"actions/[a-z-]+@v\d+", action)] == []
    assert [step for _, step in steps() if len({"run", "uses"} & step.keys()) != 1] == []


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_each_expression_of_a_workflow_names_something_that_is_there(workflow):
    """A misspelt name is no error there: it is empty."""
    for job in yaml.safe_load(workflow.read_text())["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        known = {f"github.{name}" for name in ("server_url", "repository", "ref", "ref_name", "actor")}
        known |= {f"matrix.{name}" for name in matrix}
        known |= {
            f"steps.{step['id']}.outputs.{name}"
            for step in job["steps"]
            if "id" in step
            for name in OUTPUTS[step["uses"]]
        }
        assert set(re.findall(r"\$\{\{ (.+?) \}\}", yaml.safe_dump(job, width=10_000))) <= known
    assert workflow.read_text().count("${{") == len(re.findall(r"\$\{\{ [\w.]+ \}\}", workflow.read_text()))


@pytest.mark.slow
def test_the_site_of_a_release_stays_beside_that_of_main(tmp_path):
    clone, branch = tmp_path / "clone", "gh-pages"

    def run(*command, at=clone):
        environment = {
            name: value for name, value in os.environ.items() if name not in {"DJANGO_SETTINGS_MODULE", "REF"}
        }
        author = {"GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": "user.name", "GIT_CONFIG_VALUE_0": "tests"}
        author |= {"GIT_CONFIG_KEY_1": "user.email", "GIT_CONFIG_VALUE_1": "tests@example.com"}
        done = subprocess.run(command, cwd=at, env=environment | author, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    origin = tmp_path / "origin.git"
    run("git", "init", "--quiet", "--bare", origin, at=ROOT)
    run("git", "clone", "--quiet", "--no-hardlinks", ROOT, clone, at=ROOT)
    run("git", "remote", "set-url", "origin", origin)
    for name in ("Makefile", "mkdocs.yml"):
        (clone / name).write_bytes((ROOT / name).read_bytes())
    (clone / ".venv").symlink_to(ROOT / ".venv")
    for ref in ("v0.1.0", "main", "v0.2.3", "v0.1.1"):
        if ref != "main":
            run("git", "tag", ref)
        run("make", "--old-file", ".venv/.installed", "docs-publish", f"REF={ref}")
    versions = json.loads(run("git", "show", f"{branch}:versions.json", at=origin))
    assert {version["version"]: version["aliases"] for version in versions} == {"dev": [], "0.2": ["latest"], "0.1": []}
    assert set(run("git", "ls-tree", "--name-only", branch, at=origin).split()) >= {"dev", "0.1", "0.2", "latest"}
    assert "latest/" in run("git", "show", f"{branch}:index.html", at=origin)


def test_each_version_that_the_readme_promises_is_tested():
    matrix = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["tests"]["strategy"][
        "matrix"
    ]
    promised = re.search(
        r"Django (\d\.\d) and (\d\.\d), Python 3\.(\d+) to 3\.(\d+), PostgreSQL (\d+) to (\d+)",
        (ROOT / "README.md").read_text(),
    )
    one, other, first, last, oldest, newest = promised.groups()
    tested = {
        key: set(matrix[key]) | {line[key] for line in matrix["include"]} for key in ("python", "django", "postgresql")
    }
    assert tested["django"] == {one, other}
    assert tested["python"] == {f"3.{minor}" for minor in range(int(first), int(last) + 1)}
    assert tested["postgresql"] == {str(version) for version in range(int(oldest), int(newest) + 1)}
    named = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: \d\.\d+$", line)]
    assert set(named) == tested["django"] | tested["python"]


def test_a_release_is_published_without_a_stored_secret():
    release = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    assert "secrets." not in release
    publish = yaml.safe_load(release)["jobs"]["publish"]
    assert publish["permissions"] == {"contents": "read", "id-token": "write"}
    assert publish["steps"][-1]["run"] == "make publish"


@pytest.mark.parametrize("tag", ["", "v0.0.1", django_ray.__version__])
def test_a_tag_that_is_not_the_version_is_not_published(tag):
    done = subprocess.run(
        ["make", "--no-print-directory", "publish", f"RELEASE_TAG={tag}"],
        cwd=ROOT, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    assert f"{tag} is not the version" in done.stderr


def test_a_python_that_is_named_is_taken_and_no_other():
    """Else a job of the matrix would test another version than its name says."""
    script = ["sh", str(ROOT / "scripts" / "find-python")]
    named = subprocess.run(script, check=True, capture_output=True, text=True, env={"PYTHON": sys.executable})
    assert named.stdout.strip() == sys.executable
    missing = subprocess.run(
        script, check=False, capture_output=True, text=True, env={**os.environ, "PYTHON": "python3.99"}
    )
    assert missing.returncode == 1
    assert "PYTHON=python3.99" in missing.stderr


def test_the_hooks_of_pre_commit_are_there():
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repo["repo"] == "local"
    for hook in repo["hooks"]:
        for word in hook["entry"].split():
            assert not re.search(r"[/.](py|bin)", word) or (ROOT / word).exists(), hook
            assert not word.startswith("scripts/") or (ROOT / word).is_file(), hook


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md"])
def test_every_file_and_target_and_link_that_a_page_names_exists(page):
    text = (ROOT / page).read_text()
    for path in re.findall(r"`((?:[\w.]+/)+[\w.-]*)`", text):
        here = [
            folder / path
            for folder in (ROOT, ROOT / "tests", ROOT / "django_ray", ROOT / "worker" / "django_ray_worker")
        ]
        assert any(place.exists() for place in here), path
    for target in re.findall(r"\bmake ([a-z-]+)", text):
        assert target in targets() or f"`make {target}" not in text, target
    for link in re.findall(r"\]\(([^)#\s]+)", text):
        assert "://" in link or (ROOT / link).is_file(), link


def test_every_name_of_code_that_a_contributor_is_told_is_in_the_code():
    names = re.findall(
        r"`[\w.]*?(\w+)(?:\(.*?\))?`", (ROOT / "CONTRIBUTING.md").read_text().partition("## How to add")[2]
    )
    code = "".join(
        path.read_text()
        for folder in ("django_ray", "worker", "tests", "docs", ".github")
        for path in (ROOT / folder).rglob("*.*")
        if path.suffix in {".py", ".yml"}
    )
    names = [name for name in names if name not in {"v", "py", "md", "yml", "nav"}]
    assert {"_OF_TASKS", "_introduce", "test_an_invalid_task_is_refused_where_it_is_made"} <= set(names)
    assert [name for name in names if not re.search(rf"\b{name}\b", code)] == []


def test_the_citation_names_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == django_ray.__version__
    assert citation["license"] == PROJECT["license"]


def links_of_the_package(tmp_path, **environment):
    """Return the links in the metadata of a wheel, as one that installs it sees them."""
    clean = {name: value for name, value in os.environ.items() if name != "DJANGO_RAY_REPOSITORY"}
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "metadata"], cwd=ROOT, check=True, capture_output=True, text=True,
        env={**clean, **environment},
    )  # fmt: skip
    return json.loads(done.stdout).get("urls", {})


def test_a_package_links_to_the_repository_that_it_is_built_from(tmp_path):
    links = links_of_the_package(tmp_path, DJANGO_RAY_REPOSITORY="https://code.invalid/somebody/django-ray")
    assert links["Source"] == "https://code.invalid/somebody/django-ray"
    assert links["Changelog"] == "https://code.invalid/somebody/django-ray/blob/main/CHANGELOG.md"
    for link in links.values():
        path = link.partition("/blob/main/")[2]
        assert not path or (ROOT / path).is_file(), link


def test_a_package_that_is_built_anywhere_has_no_wrong_links(tmp_path):
    assert links_of_the_package(tmp_path) == {}


def test_no_file_of_the_project_names_an_address_that_is_only_an_example():
    texts = [path.read_text() for path in (ROOT / ".github").rglob("*.*") if path.is_file()]
    texts += [(ROOT / name).read_text() for name in ("pyproject.toml", "mkdocs.yml", "CITATION.cff", "CONTRIBUTING.md")]
    assert [
        re.search(r".*example\.(org|com).*", text) for text in texts if "example.org" in text or "example.com" in text
    ] == []

"""The wheel, as somebody else installs it."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile

import pytest
from django.db import connection

import django_ray
from tests.installing import constraints, uv
from tests.supervisors import ROOT

WEB_PROCESS = """
import sys
import django_ray
for name in ("ray", "anyio", "psycopg_pool"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} is installed here, so this proves nothing")
import django
from django.conf import settings
import dj_url
settings.configure(
    INSTALLED_APPS=["django_ray"], DATABASES={"default": dj_url.DATABASE}, USE_TZ=True,
    TASKS={"default": {"BACKEND": "django_ray.backends.RayTaskBackend"}},
)
django.setup()
import web_tasks
result = web_tasks.hello.enqueue("you")
again = web_tasks.hello.get_result(result.id)
assert again == result, (again, result)
print(django_ray.__file__, again.status)
"""


def test_what_one_would_publish_is_in_order(dist):
    names = sorted(path.name for path in dist.iterdir())
    version = django_ray.__version__
    assert names == [f"django_ray-{version}-py3-none-any.whl", f"django_ray-{version}.tar.gz"]
    command = [sys.executable, "-m", "twine", "--no-color", "check", "--strict", *map(str, dist.iterdir())]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2
    heading = "Unreleased" if ".dev" in version else rf"{re.escape(version)} - \d{{4}}-\d\d-\d\d"
    (first, *_) = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert re.fullmatch(heading, first)


def test_the_source_is_complete(dist, tmp_path):
    """A wheel that is built from the sdist is the one that is built from the repository."""
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel"], cwd=source, check=True, capture_output=True
    )
    (again,) = (source / "dist").glob("*.whl")
    (first,) = dist.glob("*.whl")
    assert zipfile.ZipFile(again).namelist() == zipfile.ZipFile(first).namelist()


def test_the_wheel_has_three_top_level_names_and_its_sql(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "django_ray",
        "django_ray_worker",
        "django_ray_sql",
    }
    for needed in (
        "django_ray/py.typed",
        "django_ray/migrations/0001_initial.py",
        "django_ray_sql/0002_doorbell.up.sql",
        "django_ray_worker/sql/claim.sql",
    ):
        assert needed in names
    (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
    assert b"django-ray-listen = django_ray_worker.main:main" in zipfile.ZipFile(wheel).read(entry_points)


@pytest.fixture(scope="module")
def web_environment(wheel, tmp_path_factory):
    """A virtual environment with the wheel and a PostgreSQL driver, and nothing of the extra."""
    folder = tmp_path_factory.mktemp("web")
    subprocess.run([uv(), "venv", "--quiet", "--python", sys.executable, str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run(
        [
            uv(), "pip", "install", "--quiet", "--python", str(python), str(wheel), "psycopg[binary]",
            "--constraints", str(constraints(folder)),
        ],
        check=True,
    )  # fmt: skip
    return folder, python


@pytest.mark.django_db(transaction=True)
def test_a_web_process_needs_django_and_a_driver_only(web_environment):
    folder, python = web_environment
    settings = {
        key: value for key, value in connection.settings_dict.items()
        if key in {"ENGINE", "NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS"}
    }  # fmt: skip
    (folder / "dj_url.py").write_text(f"DATABASE = {settings!r}\n")
    (folder / "web_tasks.py").write_text(
        "from django.tasks import task\n\n@task\ndef hello(name):\n    return f'Hello {name}'\n"
    )
    environment = {
        key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "DJANGO_SETTINGS_MODULE"}
    }
    done = subprocess.run(
        [str(python), "-c", WEB_PROCESS], cwd=folder, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "READY" in done.stdout
    assert str(folder) in done.stdout


def test_the_supervisor_says_what_it_needs_more(web_environment):
    folder, python = web_environment
    (folder / "site_settings.py").write_text(
        "INSTALLED_APPS = ['django_ray']\nSECRET_KEY = 'x'\n"
        "DATABASES = {'default': {'ENGINE': 'django.db.backends.postgresql', 'NAME': 'x'}}\n"
        "TASKS = {'default': {'BACKEND': 'django_ray.backends.RayTaskBackend'}}\n"
    )
    done = subprocess.run(
        [str(python.parent / "django-ray-listen"), "--settings", "site_settings"],
        cwd=folder, check=False, capture_output=True, text=True, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode == 78
    assert (
        done.stderr
        == "django-ray-listen: The supervisor needs more than a web process: pip install 'django-ray[worker]'.\n"
    )

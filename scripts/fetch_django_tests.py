"""Fetch the tests of django.tasks that belong to the installed Django, from its source distribution."""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import django

VERSION = django.get_version()
FOLDER = Path(__file__).resolve().parent.parent / ".tools" / "django-tests" / VERSION

if not FOLDER.exists():
    print(f"Fetching Django {VERSION}'s own tests ...", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        python, arguments = sys.argv[1], ["--quiet", "--no-deps", "--no-binary", ":all:", "--dest", temporary]
        subprocess.run([python, "-m", "pip", "download", *arguments, f"django=={VERSION}"], check=True)
        (archive,) = Path(temporary).glob("*.tar.gz")
        with tarfile.open(archive) as source:
            wanted = [member for member in source.getmembers() if "/tests/tasks/" in member.name]
            for member in wanted:
                member.name = member.name.partition("/tests/")[2]
            unfinished = FOLDER.with_suffix(".unfinished")
            source.extractall(unfinished, wanted, filter="data")
    unfinished.rename(FOLDER)

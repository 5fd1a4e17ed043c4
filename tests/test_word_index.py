"""The index of words that somebody may make, so that a search looks into all executions."""

import io
import json

import pytest
from django.core.management import call_command
from django.db import connection
from django.urls import reverse

from django_ray import wordindex
from django_ray.admin import searching
from django_ray.models import RayTaskExecution

pytestmark = pytest.mark.django_db(transaction=True)

LIST = reverse("admin:django_ray_raytaskexecution_changelist")


def run(*arguments):
    output = io.StringIO()
    call_command("django_ray_search_index", *arguments, stdout=output)
    return output.getvalue().strip()


@pytest.fixture
def index():
    assert run() == "default: the index is made."
    yield
    run("--drop")


@pytest.fixture
def old(connect, monkeypatch):
    """Executions that are older than what a search reads without the index."""
    monkeypatch.setattr("django_ray.admin.executions.NEWEST_READ", 5)
    session = connect()
    error = [{"exception_class_path": "shop.carriers.Away", "message": "no address of Mr. Müller", "traceback": "t"}]
    ids = {}
    for name, args, carrier in (
        ("number", [4711, "express"], {}),
        ("word", [{"customer": {"name": "Ada Lovelace"}}], {}),
        ("reference", [], {"metadata": {"request": "R-77"}}),
    ):
        ids[name] = session.execute(
            "INSERT INTO django_ray_execution (callable_path, args, carrier, errors, state, finished_at, queue_name)"
            " VALUES ('shop.tasks.ship', %s, %s, %s, 'FAILED', now(), 'mail') RETURNING task_id",
            [json.dumps(args), json.dumps(carrier), json.dumps(error)],
        ).fetchone()["task_id"]
    session.execute(
        "INSERT INTO django_ray_execution (callable_path, args) SELECT 'x.y', '[0]' FROM generate_series(1, 300)"
    )
    session.execute("ANALYZE django_ray_execution")
    return ids


def search(client, said):
    return {row.pk for row in client.get(LIST, {"q": said}).context["cl"].result_list}


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ("args:4711", ["number"]),
        ("4711", ["number"]),
        ('args:"ada lovelace"', ["word"]),
        ("lovelace queue:mail", ["word"]),
        ("lovelace queue:other", []),
        ("lovelace task:shop", ["word"]),
        ("meta:R-77", ["reference"]),
        ("error:müller args:4711", ["number"]),
        ("error:carriers.Away args:4711", []),  # a part of a word
        ("error:shop.carriers.away args:4711", ["number"]),
        ("args:47", []),
        ("args:%", []),
        ("args:'", []),
    ],
)
def test_a_search_finds_words_of_all_executions(admin_client, index, old, said, names):
    assert search(admin_client, said) == {old[name] for name in names}


def test_without_it_only_the_newest_are_read(admin_client, old):
    assert search(admin_client, "args:4711") == set()


def test_what_it_does_not_find_is_looked_for_in_the_newest(admin_client, index, old, insert):
    new = insert(args='["expressway"]')
    assert search(admin_client, "args:xpresswa") == {new}


def test_it_is_used(index, old):
    with connection.cursor() as cursor:
        cursor.execute("SET enable_seqscan = off")
        place = wordindex.INDEXED["args"]
        cursor.execute(
            f"EXPLAIN SELECT task_id FROM django_ray_execution WHERE ({place}) @@ phraseto_tsquery('simple', '4711')"
        )
        assert wordindex.INDEX in "\n".join(line for (line,) in cursor.fetchall())
        cursor.execute("RESET enable_seqscan")


def test_it_is_made_once_and_dropped_once():
    assert [run(), run(), run("--drop"), run("--drop")] == [
        "default: the index is made.",
        "default: the index is there already.",
        "default: the index is dropped.",
        "default: there is no index.",
    ]


def test_one_that_was_broken_off_is_made_anew(connect):
    run()
    connect().execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass(%s)", [wordindex.INDEX])
    assert wordindex.exists("default") is None
    assert searching.indexed(RayTaskExecution.objects.all(), searching.terms("args:1"), oldest=lambda: None) is None
    assert run() == "default: the index is made."
    assert wordindex.exists("default")
    run("--drop")


def test_a_word_of_a_path_is_found_beside_it(admin_client, index, old, insert):
    named = insert(callable_path="lovelace.tasks.count")
    assert search(admin_client, "lovelace") == {old["word"], named}


def test_what_is_too_large_for_an_index_of_words_is_enqueued_all_the_same(index, connect):
    many = json.dumps([f"word-{number}" for number in range(200_000)])
    connect().execute("INSERT INTO django_ray_execution (callable_path, args) VALUES ('x.y', %s)", [many])

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import IntegrityError, NotSupportedError, connection, transaction
from django.db.migrations import RunSQL
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.state import ProjectState
from django.db.utils import ConnectionHandler

import django_ray_sql
from django_ray.migrations._brief import BriefMigration
from django_ray.models import RayTaskExecution, RayWorker, State
from tests.schema import as_migrated
from tests.supervisors import until


@pytest.mark.django_db(transaction=True)
def test_up_down_up_leaves_the_same_catalogue():
    with connection.cursor() as cursor:
        before = as_migrated(cursor)
        assert {kind for kind, *_ in before} == {"function", "trigger", "index", "constraint", "column"}
        assert as_migrated(cursor) == before


@pytest.mark.django_db
def test_the_migrations_match_the_models():
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


def test_every_sql_file_is_named_like_its_migration():
    migrations = {path.stem for path in Path("django_ray/migrations").glob("0*.py")}
    files = {path.name.split(".")[0] for path in Path(django_ray_sql.__file__).parent.glob("*.sql")}
    assert files <= migrations


class Later(BriefMigration):
    operations = (
        RunSQL(
            "ALTER TABLE django_ray_execution ADD COLUMN later integer",
            "ALTER TABLE django_ray_execution DROP COLUMN later",
        ),
    )


def test_a_brief_migration_lets_others_pass_until_it_has_its_lock(connect):
    """Both ways: a transaction that has enqueued keeps it waiting, and it keeps nobody waiting for a second."""
    holder, other, session = connect(), connect(), connect()
    other.execute("SET lock_timeout = '1s'")
    enqueue = "INSERT INTO django_ray_execution (callable_path) VALUES ('tests.tasks.add')"
    waits = "SELECT true FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'ALTER TABLE%'"

    def migrate(direction):
        try:
            with connection.schema_editor(atomic=True) as editor:
                getattr(Later("9999_later", "django_ray"), direction)(ProjectState(), editor)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as thread:
        for direction, has_it in (("apply", True), ("unapply", False)):
            holder.execute("BEGIN")
            holder.execute(enqueue)
            done = thread.submit(migrate, direction)
            for _ in range(2):
                until(lambda: session.execute(waits).fetchone())
                other.execute(enqueue)
            assert not done.done()
            holder.execute("COMMIT")
            done.result(60)
            (row,) = session.execute(
                "SELECT count(*) FROM information_schema.columns WHERE column_name = 'later'"
            ).fetchall()
            assert row["count"] == has_it


@pytest.mark.django_db
def test_a_database_that_a_router_keeps_the_app_out_of_may_be_another(settings, tmp_path):
    """The migrations pass it by; without the router they say what is wrong."""
    others = ConnectionHandler(
        {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "other.sqlite3")}}
    )
    executor = MigrationExecutor(others["default"])
    leaf = executor.loader.graph.leaf_nodes("django_ray")
    try:
        with pytest.raises(NotSupportedError, match="database router"):
            executor.migrate(leaf)
        settings.DATABASE_ROUTERS = ["tests.test_migrations.KeepOut"]
        MigrationExecutor(others["default"]).migrate(leaf)
        assert others["default"].introspection.table_names() == ["django_migrations"]
    finally:
        others.close_all()


class KeepOut:
    def allow_migrate(self, db, app_label, **hints):
        return app_label != "django_ray"


@pytest.mark.django_db
@pytest.mark.parametrize(
    "impossible",
    [
        {"state": "RUNNING"},
        {"state": "READY", "claimed_by_id": 1},
        {"state": "SUCCESSFUL"},
        {"state": "READY", "finished_at": "2026-01-01T00:00:00Z"},
        {"state": "NONSENSE"},
        {"state": "READY", "result": 1},
        {"priority": 101},
        {"args": {}},
        {"kwargs": []},
        {"attempt_number": -1},
        {"state": "FAILED", "finished_at": "2026-01-01T00:00:00Z", "due_at": "2026-01-01T00:00:00Z"},
    ],
)
def test_an_impossible_row_cannot_be_stored(impossible):
    with pytest.raises(IntegrityError), transaction.atomic():
        RayTaskExecution.objects.create(callable_path="x.y", worker_ids=[], errors=[], **impossible)


@pytest.mark.django_db
def test_a_plain_insert_of_a_path_is_an_enqueue():
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO django_ray_execution (callable_path) VALUES ('tests.tasks.add') RETURNING task_id")
        (task_id,) = cursor.fetchone()
    row = RayTaskExecution.objects.get(task_id=task_id)
    assert (row.state, row.args, row.kwargs, row.queue_name, row.backend) == (State.READY, [], {}, "default", "default")


@pytest.mark.django_db
def test_exception_type_is_the_class_of_the_last_error():
    errors = [{"exception_class_path": path, "message": "m", "traceback": "t"} for path in ("a.First", "b.Last")]
    row = RayTaskExecution.objects.create(callable_path="x.y", errors=errors, worker_ids=[])
    row.refresh_from_db()
    assert (row.exception_type, row.error_message, row.error_traceback) == ("b.Last", "m", "t")


@pytest.mark.django_db
def test_the_models_name_themselves():
    worker = RayWorker(pk=3, hostname="web-1", pid=42)
    assert str(worker) == "3 (web-1, process 42)"

"""The checks of rights in the database: W003, what the role lacks, and W004, who else may write the table."""

import os
import re
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import connection

from django_ray.rights import check_rights, check_strangers
from tests.test_roles import group, rights, roles_sql

TABLE = "django_ray_execution"
STRANGER = f"anon_{os.getpid()}"


def lacks():
    return [(message.id, message.msg) for message in check_rights(databases=["default"])]


def strangers():
    found = check_strangers(databases=["default"])
    assert {message.id for message in found} <= {"django_ray.W004"}
    return [name for message in found for name in re.findall(r"schedule: (.*?)\. Who", message.msg)]


@pytest.fixture
def do(db):
    """Say something as the owner. All of it is rolled back, roles included."""
    with connection.cursor() as cursor:
        yield cursor.execute


@pytest.fixture
def stranger(do):
    do(f"CREATE ROLE {STRANGER} NOLOGIN")
    return STRANGER


@pytest.fixture
def roles(do):
    """The roles of docs/roles.sql, where nobody else may call a function."""
    do("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC")
    do(re.sub(r"^(BEGIN|COMMIT);$", "", roles_sql(), flags=re.MULTILINE))


def test_the_owner_lacks_nothing_and_nobody_else_may_write(do):
    assert (lacks(), strangers()) == ([], [])
    assert check_rights() == []
    assert check_strangers(databases=[]) == []


@pytest.mark.parametrize("kind", ["web", "operator", "supervisor"])
def test_the_roles_of_the_file_lack_nothing_and_are_no_strangers(roles, do, kind):
    assert strangers() == []
    do(f"SET LOCAL ROLE {group(kind)}")
    assert (lacks(), strangers()) == ([], [])


class Session:
    """As test_roles asks for rights, in this transaction."""

    def execute(self, *arguments):
        with connection.cursor() as cursor:
            cursor.execute(*arguments)
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def test_each_right_of_a_web_process_is_missed(roles, do):
    granted = [right for right in rights(Session(), "web") if not right[1].startswith("SCHEMA")]
    assert len(granted) > 10
    for privilege, place, column, grantee in granted:
        right = privilege if column is None else f"{privilege} ({column})"
        do(f"REVOKE {right} ON {place} FROM {grantee}; SET LOCAL ROLE {grantee}")
        ((identity, said),) = lacks()
        assert identity == "django_ray.W003"
        named = re.sub(r"[ ,]", "", f"{right} ON {place.removeprefix('TABLE ')}")
        assert said.count(" ON ") == 1
        assert named in re.sub(r"[ ,]", "", said)
        do(f"RESET ROLE; GRANT {right} ON {place} TO {grantee}")


def test_a_role_with_all_tables_may_still_neither_replace_nor_cancel(stranger, do):
    do(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {stranger}; SET LOCAL ROLE {stranger}")
    ((_, said),) = lacks()
    assert said.endswith(
        "lacks rights that enqueueing, waiting or cancelling needs: EXECUTE ON FUNCTION django_ray_replace(uuid, text,"
        " json), EXECUTE ON FUNCTION django_ray_cancel(uuid), EXECUTE ON FUNCTION django_ray_cancel_flow(uuid)."
    )
    assert strangers() == []  # it is the role that we are


@pytest.mark.parametrize("right", ["ALL", "INSERT", "UPDATE"])
def test_a_stranger_who_may_write_the_table_is_named(stranger, do, right):
    do(f"GRANT {right} ON {TABLE} TO {stranger}")
    assert strangers() == [stranger]
    do(f"REVOKE ALL ON {TABLE} FROM {stranger}")
    assert strangers() == []
    do(f"GRANT {right} ON django_ray_schedule TO {stranger}")
    assert strangers() == [stranger], "a schedule is an enqueue to come"


@pytest.mark.parametrize("right", ["INSERT", "INSERT (callable_path)", "UPDATE (options)"])
def test_everybody_is_a_stranger(do, right):
    do(f"GRANT {right} ON {TABLE} TO PUBLIC")
    assert strangers() == ["PUBLIC"]


@pytest.mark.parametrize(
    "harmless",
    [
        "GRANT SELECT, DELETE ON django_ray_execution TO {}",
        "GRANT INSERT (callable_path) ON django_ray_execution TO {}",
        "ALTER ROLE {} SUPERUSER; GRANT INSERT ON django_ray_execution TO {}",
        "GRANT INSERT ON django_ray_execution TO {}; ALTER TABLE django_ray_execution ENABLE ROW LEVEL SECURITY",
        "GRANT INSERT ON django_ray_execution TO {}; REVOKE USAGE ON SCHEMA public FROM PUBLIC",
    ],
)
def test_who_may_not_or_was_thought_of_is_no_stranger(stranger, do, harmless):
    do(harmless.format(stranger, stranger))
    assert strangers() == []


def test_a_login_acts_by_its_group_and_the_owner_does_not(stranger, do):
    login = f"{stranger}_login"
    do(f"GRANT ALL ON {TABLE} TO {stranger}; CREATE ROLE {login} IN ROLE {stranger}; SET LOCAL ROLE {login}")
    assert strangers() == []
    do(f"RESET ROLE; ALTER TABLE {TABLE} OWNER TO {login}; SET LOCAL ROLE {login}")
    assert strangers() == [stranger]


def test_the_command_says_both(stranger, do):
    do(f"GRANT INSERT ON {TABLE} TO {stranger}, PUBLIC; SET LOCAL ROLE {stranger}")
    said = StringIO()
    call_command("check", databases=["default"], stderr=said)
    assert "(django_ray.W003)" in said.getvalue()
    assert "(django_ray.W004)" in said.getvalue()


@pytest.mark.django_db(transaction=True)
def test_a_schema_of_its_own_keeps_those_out_who_are_granted_everything_in_public():
    """The cure of security.md."""
    options = connection.settings_dict["OPTIONS"]
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE ROLE {STRANGER} NOLOGIN; GRANT USAGE ON SCHEMA public TO {STRANGER};"
            f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO {STRANGER};"
            "CREATE SCHEMA library"
        )
    try:
        call_command("migrate", "django_ray", "zero", verbosity=0)
        # In public with the role's own search_path, which the functions keep.
        for path, found in (({}, [STRANGER]), ({"options": "-c search_path=library"}, [])):
            connection.close()
            options.update(path)
            call_command("migrate", "django_ray", verbosity=0)
            assert strangers() == found
    finally:
        connection.close()
        options.pop("options", None)
        with connection.cursor() as cursor:
            cursor.execute(f"DROP OWNED BY {STRANGER}; DROP ROLE {STRANGER}; DROP SCHEMA library CASCADE")

"""System checks of rights in the database: what the role lacks, and who else may enqueue. For `check --database`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Tags, Warning, register  # noqa: A004 - Django's name
from django.db import DEFAULT_DB_ALIAS, connections

from django_ray.databases import asked_for

__all__ = ["check_rights", "check_strangers"]

# As docs/roles.sql grants it to django_ray_web.
_WRITTEN = (
    "backend", "queue_name", "priority", "callable_path", "args", "kwargs", "options", "carrier", "enqueued_at",
    "run_after", "due_at", "task_id", "unique_key", "gate", "gate_rule", "expires_at", "flow_id",
    "needs",
)  # fmt: skip
_CALLED = (
    "django_ray_uuid7()", "django_ray_enqueue(text, json)", "django_ray_enqueue_admitted(text, json)",
    "django_ray_enqueue_round(text, json, uuid[], text[], integer[])", "django_ray_replace(uuid, text, json)",
    "django_ray_cancel(uuid)", "django_ray_cancel_flow(uuid)", "django_ray_link(json, uuid[])",
    "django_ray_linked(uuid[])", "django_ray_is_held(uuid)",
    "django_ray_ring_queue(text, text)", "django_ray_channel(text)", "django_ray_world()",
)  # fmt: skip
# A function or a column that is not there is what W001 is for.
_LACKING = """
SELECT current_user, ARRAY(
    SELECT what FROM (
        SELECT 'SELECT ON django_ray_execution' AS what, has_table_privilege(our.table, 'SELECT') AS has
        UNION ALL
        SELECT format('INSERT (%%s) ON django_ray_execution', name), has_column_privilege(our.table, attnum, 'INSERT')
        FROM unnest(%s::text[]) AS name JOIN pg_attribute ON attrelid = our.table AND attname = name
        UNION ALL
        SELECT 'UPDATE (awaited) ON django_ray_execution', has_column_privilege(our.table, 'awaited', 'UPDATE')
        UNION ALL
        SELECT format('SELECT ON %%s', name), has_table_privilege(to_regclass(name), 'SELECT')
        FROM unnest(ARRAY['django_ray_progress', 'django_ray_flow', 'django_ray_edge']) AS name
        UNION ALL
        SELECT format('INSERT (%%s) ON django_ray_flow', name),
            has_column_privilege(to_regclass('django_ray_flow'), name, 'INSERT')
        FROM unnest(ARRAY['backend', 'name']) AS name
        UNION ALL
        SELECT format('EXECUTE ON FUNCTION %%s', name), has_function_privilege(to_regprocedure(name), 'EXECUTE')
        FROM unnest(%s::text[]) AS name
    ) AS needed WHERE NOT has
) FROM (SELECT to_regclass('django_ray_execution')::oid AS table) AS our WHERE our.table IS NOT NULL
"""
# Hosts that grant everything to the roles of their HTTP API grant whole tables. Who grants columns, as docs/roles.sql
# does, has thought of this table, and so has who turns row security on. The role that we are may act by others, unless
# it owns the table.
_STRANGERS = """
SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(rolname) END
FROM pg_class AS our
    CROSS JOIN LATERAL (
        SELECT grantee, privilege_type FROM aclexplode(relacl)
        UNION
        SELECT grantee, privilege_type FROM pg_attribute CROSS JOIN LATERAL aclexplode(attacl)
        WHERE attrelid = our.oid AND attname IN ('callable_path', 'options') AND grantee = 0
    ) AS granted
    LEFT JOIN pg_roles AS role ON role.oid = grantee
WHERE our.oid IN (to_regclass('django_ray_execution'), to_regclass('django_ray_schedule')) AND NOT relrowsecurity
    AND privilege_type IN ('INSERT', 'UPDATE') AND grantee <> relowner
    AND CASE grantee
        WHEN 0 THEN has_schema_privilege('public', relnamespace, 'USAGE')
        ELSE NOT rolsuper AND rolname <> current_user AND has_schema_privilege(grantee, relnamespace, 'USAGE')
            AND (pg_has_role(relowner, 'USAGE') OR NOT pg_has_role(grantee, 'USAGE'))
    END
ORDER BY 1
"""


def _rows(databases: Sequence[str] | None, question: str, parameters: list[Any]) -> list[Any]:
    rows: list[Any] = []
    for alias in asked_for(databases):
        with connections[alias].cursor() as cursor:
            cursor.execute(question, parameters)
            rows += [(alias, *row) for row in cursor.fetchall()]
    return rows


@register(Tags.database)
def check_rights(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """W003: what the role may not do, it should not learn at the first incident."""
    return [
        Warning(
            f"The role {role!r} lacks rights{_in(alias)} that enqueueing, waiting or cancelling needs: "
            f"{', '.join(lacking)}.",
            hint="As the owner of the tables, run docs/roles.sql and grant this role django_ray_web; or grant the "
            "rights that are named.",
            id="django_ray.W003",
        )
        for alias, role, lacking in _rows(databases, _LACKING, [list(_WRITTEN), list(_CALLED)])
        if lacking
    ]


@register(Tags.database)
def check_strangers(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """W004: who may write the table may run code."""
    strangers: dict[str, list[str]] = {}
    for alias, name in _rows(databases, _STRANGERS, []):
        strangers.setdefault(alias, []).append(name)
    return [
        Warning(
            f"Others may write the whole table django_ray_execution or django_ray_schedule{_in(alias)}: "
            f"{', '.join(names)}. Who may do that may run code on the Ray nodes.",
            hint="If that is not meant, REVOKE ALL ON django_ray_execution, django_ray_queue, django_ray_worker, "
            "django_ray_minute, django_ray_progress, django_ray_schedule, django_ray_gate, "
            "django_ray_flow, django_ray_edge FROM "
            f"{', '.join(names)}. Where the host grants everything in this schema, keep the tables in another one: "
            "docs/security.md. Roles of the project get the rights that they need by docs/roles.sql.",
            id="django_ray.W004",
        )
        for alias, names in strangers.items()
    ]


def _in(alias: str) -> str:
    return "" if alias == DEFAULT_DB_ALIAS else f" in the database {alias!r}"

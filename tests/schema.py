"""What of ours is in a database: to compare two of them, or one before and after."""

from __future__ import annotations

from django.core.management import call_command

CATALOGUE = r"""
    SELECT 'function', p.proname, pg_get_functiondef(p.oid) || coalesce(p.proacl::text, '') FROM pg_proc p
    WHERE p.pronamespace = 'public'::regnamespace AND p.proname LIKE 'django\_ray%'
    UNION ALL
    SELECT 'trigger', tgname, pg_get_triggerdef(oid) || tgenabled::text FROM pg_trigger WHERE tgname LIKE 'django\_ray%'
    UNION ALL
    SELECT 'index', indexname, indexdef FROM pg_indexes WHERE tablename LIKE 'django\_ray%'
    UNION ALL
    SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid::regclass::text LIKE 'django\_ray%'
    UNION ALL
    SELECT 'column', table_name || '.' || column_name,
        concat_ws(' ', data_type, is_nullable, column_default, is_identity, generation_expression)
    FROM information_schema.columns WHERE table_name LIKE 'django\_ray%'
    ORDER BY 1, 2, 3
"""


def catalogue(cursor) -> list[tuple[str, str, str]]:
    """Return (kind, name, definition) of every function, trigger, index, constraint and column of ours."""
    cursor.execute(CATALOGUE)
    return cursor.fetchall()


def as_migrated(cursor) -> list[tuple[str, str, str]]:
    """Make all of ours anew, and return it: other tests may have granted rights or looked from another search_path."""
    call_command("migrate", "django_ray", "zero", verbosity=0)
    assert catalogue(cursor) == []
    call_command("migrate", "django_ray", verbosity=0)
    return catalogue(cursor)

"""What statements read: the rows that the scans of their plans visit, planned as they were when they ran."""

import psycopg
from django.db import connection

from tests.supervisors import database_url

TRANSACTIONS = ("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE")


def rows_read(queries, table="django_ray_execution"):
    """Run the captured statements that read once more, with their transactions and settings.

    Return each with how many rows of a table its scans visit, those that they drop included.
    """
    found = []
    with psycopg.connect(database_url(connection), autocommit=True) as session:
        for sql in (query["sql"].strip() for query in queries):
            if sql.startswith(TRANSACTIONS) or "set_config(" in sql:
                session.execute(sql)
            elif sql.startswith(("SELECT", "WITH")):
                (plan,) = session.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}").fetchone()
                found.append((_visited(plan[0]["Plan"], table), sql))
    return found


def check_read(queries, most, table="django_ray_execution"):
    """Assert that none of the captured statements reads so many rows of a table, and that some read."""
    found = rows_read(queries, table)
    assert found
    rows, sql = max(found)
    assert rows < most, f"{rows} rows:\n{sql}"


def _visited(node, table):
    here = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    is_scan = "Scan" in node["Node Type"] and node.get("Relation Name") == table
    return (here if is_scan else 0) + sum(_visited(child, table) for child in node.get("Plans", ()))

"""The systems to compare with: what each needs in its own environment. How each is run stands in <name>.py.

A module here has prepare(), which makes the tables and may return {"server": pid} of a server that is not PostgreSQL;
one_by_one(numbers) and bulk(numbers), which enqueue a task for each number; worker(), which returns the commands
of the worker processes and what to add to their environment; beside another server, statements(), its count; and
close() if there is something to end.

Every peer runs its own worker command, as its documentation has it for production, with two processes on two CPUs;
where it takes work in batches it may, as ours does. Results are kept wherever the peer can.
"""

PEERS = {
    "procrastinate": ("procrastinate==3.10.0", "psycopg[binary]==3.3.9"),
    "pgqueuer": (
        "pgqueuer[asyncpg]==1.6.0",
        "asyncpg==0.32.0",
        "typer==0.19.2",
    ),  # its command fails with a newer typer
    "oban": ("oban==0.7.0",),
    "django_tasks_db": ("django-tasks-db==0.13.0", "psycopg[binary]==3.3.9", "dj-database-url==3.1.2"),
    "celery": ("celery[redis]==5.7.0",),
}

# Programs that a peer needs beside its packages, and the package of Debian that has them.
PROGRAMS = {"celery": {"redis-server": "redis-server"}}

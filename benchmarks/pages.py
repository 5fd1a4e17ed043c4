"""(P) The admin's pages and django_ray_status beside a million executions: milliseconds each, the median of twenty."""

import psycopg

FILL = """
INSERT INTO django_ray_execution
    (callable_path, queue_name, args, state, attempt_number, worker_ids, result, errors,
     enqueued_at, started_at, last_attempted_at, finished_at)
SELECT
    'benchmarks.tasks.mark' || number %% 20, 'queue' || number %% 5, '[1]',
    CASE WHEN number %% 100 = 0 THEN 'FAILED' ELSE 'SUCCESSFUL' END, 1, '["1"]',
    CASE WHEN number %% 100 = 0 THEN NULL ELSE '1'::jsonb END,
    CASE WHEN number %% 100 = 0
        THEN jsonb_build_array(jsonb_build_object(
            'exception_class_path', 'a.B', 'message', 'm', 'traceback', 't',
            'attempt', 1, 'worker_id', '1', 'at', moment
        ))
        ELSE '[]'
    END,
    moment, moment, moment, moment
FROM generate_series(1, %s) AS number, LATERAL (SELECT now() - number * interval '1 s') AS past(moment)
"""
WAITING = """
INSERT INTO django_ray_execution (callable_path, queue_name)
SELECT 'benchmarks.tasks.mark', 'queue' || number %% 5 FROM generate_series(1, %s) AS number
"""


def measure(system, size):
    system.reset()
    with psycopg.connect(system.url, autocommit=True) as session:
        with system.progress.step(f"P  making {size.history:,} rows"):
            session.execute("ALTER TABLE django_ray_execution DISABLE TRIGGER USER")
            for _ in range(10):
                session.execute(FILL, [size.history // 10])
            session.execute(WAITING, [size.history // 20])
            session.execute("ALTER TABLE django_ray_execution ENABLE TRIGGER USER")
        with system.progress.step("P  VACUUM ANALYZE"):
            session.execute("VACUUM ANALYZE django_ray_execution")
    with system.progress.step("P  looking at each page"):
        return system.ask("pages")

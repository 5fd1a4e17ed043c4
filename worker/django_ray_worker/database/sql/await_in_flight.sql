-- As long as this many milliseconds, whatever the session says; set before the lock is asked for.
WITH patience AS MATERIALIZED (SELECT set_config('lock_timeout', %(patience)s, true))
SELECT django_ray_await_in_flight(%(bell)s) FROM patience

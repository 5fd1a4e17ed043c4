-- The tables of django-celery-beat 2.9.0 with some rows, as its own migrations and models wrote them: what pg_dump says, without
-- sequences, keys and indexes.
CREATE TABLE django_celery_beat_clockedschedule (
    id integer NOT NULL,
    clocked_time timestamp with time zone NOT NULL
);
CREATE TABLE django_celery_beat_crontabschedule (
    id integer NOT NULL,
    minute character varying(240) NOT NULL,
    hour character varying(96) NOT NULL,
    day_of_week character varying(64) NOT NULL,
    day_of_month character varying(124) NOT NULL,
    month_of_year character varying(64) NOT NULL,
    timezone character varying(63) NOT NULL
);
CREATE TABLE django_celery_beat_intervalschedule (
    id integer NOT NULL,
    every integer NOT NULL,
    period character varying(24) NOT NULL
);
CREATE TABLE django_celery_beat_periodictask (
    id integer NOT NULL,
    name character varying(200) NOT NULL,
    task character varying(200) NOT NULL,
    args text NOT NULL,
    kwargs text NOT NULL,
    queue character varying(200),
    exchange character varying(200),
    routing_key character varying(200),
    expires timestamp with time zone,
    enabled boolean NOT NULL,
    last_run_at timestamp with time zone,
    total_run_count integer NOT NULL,
    date_changed timestamp with time zone NOT NULL,
    description text NOT NULL,
    crontab_id integer,
    interval_id integer,
    solar_id integer,
    one_off boolean NOT NULL,
    start_time timestamp with time zone,
    priority integer,
    headers text NOT NULL,
    clocked_id integer,
    expire_seconds integer,
    CONSTRAINT django_celery_beat_periodictask_expire_seconds_check CHECK ((expire_seconds >= 0)),
    CONSTRAINT django_celery_beat_periodictask_priority_check CHECK ((priority >= 0)),
    CONSTRAINT django_celery_beat_periodictask_total_run_count_check CHECK ((total_run_count >= 0))
);
CREATE TABLE django_celery_beat_solarschedule (
    id integer NOT NULL,
    event character varying(24) NOT NULL,
    latitude numeric(9,6) NOT NULL,
    longitude numeric(9,6) NOT NULL
);
INSERT INTO django_celery_beat_clockedschedule (id, clocked_time) VALUES (1, '2030-01-01 00:00:00+00');
INSERT INTO django_celery_beat_crontabschedule (id, minute, hour, day_of_week, day_of_month, month_of_year, timezone) VALUES (1, '0', '3', '*', '*', '*', 'Europe/Berlin');
INSERT INTO django_celery_beat_crontabschedule (id, minute, hour, day_of_week, day_of_month, month_of_year, timezone) VALUES (2, '*/15', '8-17', 'mon-fri', '*', '*', 'America/New_York');
INSERT INTO django_celery_beat_crontabschedule (id, minute, hour, day_of_week, day_of_month, month_of_year, timezone) VALUES (3, '30', '22-2', 'friday,saturday', '*', '*', 'UTC');
INSERT INTO django_celery_beat_crontabschedule (id, minute, hour, day_of_week, day_of_month, month_of_year, timezone) VALUES (4, '0', '0', '1', '1', '*', 'Europe/Berlin');
INSERT INTO django_celery_beat_crontabschedule (id, minute, hour, day_of_week, day_of_month, month_of_year, timezone) VALUES (5, '1', '1', '*', '*', '*', 'Europe/Berlin');
INSERT INTO django_celery_beat_crontabschedule (id, minute, hour, day_of_week, day_of_month, month_of_year, timezone) VALUES (6, '0', '4', '*', '*', '*', 'Europe/Berlin');
INSERT INTO django_celery_beat_intervalschedule (id, every, period) VALUES (1, 5, 'minutes');
INSERT INTO django_celery_beat_intervalschedule (id, every, period) VALUES (2, 100000, 'microseconds');
INSERT INTO django_celery_beat_intervalschedule (id, every, period) VALUES (3, 1, 'days');
INSERT INTO django_celery_beat_intervalschedule (id, every, period) VALUES (4, 2, 'hours');
INSERT INTO django_celery_beat_intervalschedule (id, every, period) VALUES (5, 3, 'hours');
INSERT INTO django_celery_beat_periodictask (id, name, task, args, kwargs, queue, exchange, routing_key, expires, enabled, last_run_at, total_run_count, date_changed, description, crontab_id, interval_id, solar_id, one_off, start_time, priority, headers, clocked_id, expire_seconds) VALUES (1, 'nightly', 'tests.tasks.add', '[1, 2]', '{}', NULL, NULL, NULL, NULL, true, NULL, 0, '2026-11-27 19:09:27.788712+00', '', 1, NULL, NULL, false, NULL, NULL, '{}', NULL, NULL);
INSERT INTO django_celery_beat_periodictask (id, name, task, args, kwargs, queue, exchange, routing_key, expires, enabled, last_run_at, total_run_count, date_changed, description, crontab_id, interval_id, solar_id, one_off, start_time, priority, headers, clocked_id, expire_seconds) VALUES (2, 'office hours', 'tests.tasks.add', '[]', '{"a": 1, "b": 2}', 'other', NULL, NULL, NULL, true, NULL, 0, '2026-11-27 19:09:27.83429+00', '', 2, NULL, NULL, false, NULL, NULL, '{}', NULL, NULL);
INSERT INTO django_celery_beat_periodictask (id, name, task, args, kwargs, queue, exchange, routing_key, expires, enabled, last_run_at, total_run_count, date_changed, description, crontab_id, interval_id, solar_id, one_off, start_time, priority, headers, clocked_id, expire_seconds) VALUES (3, 'over midnight', 'tests.tasks.add', '[]', '{}', NULL, NULL, NULL, NULL, true, NULL, 0, '2026-11-27 19:09:27.880579+00', '', 3, NULL, NULL, false, NULL, NULL, '{}', NULL, NULL);
INSERT INTO django_celery_beat_periodictask (id, name, task, args, kwargs, queue, exchange, routing_key, expires, enabled, last_run_at, total_run_count, date_changed, description, crontab_id, interval_id, solar_id, one_off, start_time, priority, headers, clocked_id, expire_seconds) VALUES (4, 'first and monday', 'tests.tasks.add', '[]', '{}', NULL, NULL, NULL, NULL, true, NULL, 0, '2026-11-27 19:09:27.953823+00', '', 4, NULL, NULL, false, NULL, NULL, '{}', NULL, NULL);
INSERT INTO django_celery_beat_periodictask (id, name, task, args, kwargs, queue, exchange, routing_key, expires, enabled, last_run_at, total_run_count, date_changed, description, crontab_id, interval_id, solar_id, one_off, start_time, priority, headers, clocked_id, expire_seconds) VALUES (5, 'every five minutes', 'tests.tasks.add', '[]', '{}', NULL, NULL, NULL, NULL, true, NULL, 0, '2026-11-27 19:09:28.017023+00', '', NULL, 1, NULL, false, NULL, 3, '{}', NULL, 60);
INSERT INTO django_celery_beat_periodictask (id, name, task, args, kwargs, queue, exchange, routing_key, expires, enabled, last_run_at, total_run_count, date_changed, description, crontab_id, interval_id, solar_id, one_off, start_time, priority, headers, clocked_id, expire_seconds) VALUES (6, 'too often', 'tests.tasks.add', '[]', '{}', NULL, NULL, NULL, NULL, true, NULL, 0, '2026-11-27 19:09:28.078244+00', '', NULL, 2, NULL, false, NULL, NULL, '{}', NULL, NULL);
INSERT INTO django_celery_beat_periodictask (id, name, task, args, kwargs, queue, exchange, routing_key, expires, enabled, last_run_at, total_run_count, date_changed, description, crontab_id, interval_id, solar_id, one_off, start_time, priority, headers, clocked_id, expire_seconds) VALUES (7, 'sunrise', 'tests.tasks.add', '[]', '{}', NULL, NULL, NULL, NULL, true, NULL, 0, '2026-11-27 19:09:28.106604+00', '', NULL, NULL, 1, false, NULL, NULL, '{}', NULL, NULL);
INSERT INTO django_celery_beat_periodictask (id, name, task, args, kwargs, queue, exchange, routing_key, expires, enabled, last_run_at, total_run_count, date_changed, description, crontab_id, interval_id, solar_id, one_off, start_time, priority, headers, clocked_id, expire_seconds) VALUES (8, 'new year', 'tests.tasks.add', '[]', '{}', NULL, NULL, NULL, NULL, true, NULL, 0, '2026-11-27 19:09:28.139823+00', '', NULL, NULL, NULL, true, NULL, NULL, '{}', 1, NULL);
INSERT INTO django_celery_beat_periodictask (id, name, task, args, kwargs, queue, exchange, routing_key, expires, enabled, last_run_at, total_run_count, date_changed, description, crontab_id, interval_id, solar_id, one_off, start_time, priority, headers, clocked_id, expire_seconds) VALUES (9, 'once', 'tests.tasks.add', '[]', '{}', NULL, NULL, NULL, NULL, true, NULL, 0, '2026-11-27 19:09:28.185136+00', '', NULL, 3, NULL, true, NULL, NULL, '{}', NULL, NULL);
INSERT INTO django_celery_beat_periodictask (id, name, task, args, kwargs, queue, exchange, routing_key, expires, enabled, last_run_at, total_run_count, date_changed, description, crontab_id, interval_id, solar_id, one_off, start_time, priority, headers, clocked_id, expire_seconds) VALUES (10, 'switched off', 'tests.tasks.add', '[]', '{}', NULL, NULL, NULL, NULL, false, NULL, 0, '2026-11-27 19:09:28.22914+00', '', 5, NULL, NULL, false, NULL, NULL, '{}', NULL, NULL);
INSERT INTO django_celery_beat_periodictask (id, name, task, args, kwargs, queue, exchange, routing_key, expires, enabled, last_run_at, total_run_count, date_changed, description, crontab_id, interval_id, solar_id, one_off, start_time, priority, headers, clocked_id, expire_seconds) VALUES (11, 'celery.backend_cleanup', 'celery.backend_cleanup', '[]', '{}', NULL, NULL, NULL, NULL, true, NULL, 0, '2026-11-27 19:09:28.277859+00', '', 6, NULL, NULL, false, NULL, NULL, '{}', NULL, NULL);
INSERT INTO django_celery_beat_periodictask (id, name, task, args, kwargs, queue, exchange, routing_key, expires, enabled, last_run_at, total_run_count, date_changed, description, crontab_id, interval_id, solar_id, one_off, start_time, priority, headers, clocked_id, expire_seconds) VALUES (12, 'not moved yet', 'library.tasks.remind', '[]', '{}', NULL, NULL, NULL, NULL, true, NULL, 0, '2026-11-27 19:09:28.347301+00', '', NULL, 4, NULL, false, '2026-01-01 00:00:00+00', NULL, '{"a": 1}', NULL, NULL);
INSERT INTO django_celery_beat_periodictask (id, name, task, args, kwargs, queue, exchange, routing_key, expires, enabled, last_run_at, total_run_count, date_changed, description, crontab_id, interval_id, solar_id, one_off, start_time, priority, headers, clocked_id, expire_seconds) VALUES (13, 'own name', 'remind', '[]', '{}', NULL, NULL, NULL, NULL, true, NULL, 0, '2026-11-27 19:09:28.391046+00', '', NULL, 5, NULL, false, NULL, NULL, '{}', NULL, NULL);
INSERT INTO django_celery_beat_solarschedule (id, event, latitude, longitude) VALUES (1, 'sunrise', 52.500000, 13.400000);

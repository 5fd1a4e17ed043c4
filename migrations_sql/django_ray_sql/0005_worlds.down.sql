-- With the supervisors stopped, or those of 0.1.0 sleep until their pulse.
LOCK TABLE django_ray_execution, django_ray_queue IN SHARE ROW EXCLUSIVE MODE;

SELECT pg_notify(django_ray_channel('supervisors:' || backend), '')
FROM (SELECT DISTINCT backend FROM django_ray_worker WHERE stopped_at IS NULL) AS living;

CREATE OR REPLACE FUNCTION django_ray_channel(bell text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN octet_length('django_ray:' || bell) <= 63 THEN 'django_ray:' || bell
    ELSE 'django_ray#' || to_hex(hashtextextended(bell, 0)) || to_hex(hashtextextended(bell, 1))
END;

CREATE OR REPLACE FUNCTION django_ray_key(bell text) RETURNS int LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN hashtext(django_ray_channel(bell));

CREATE OR REPLACE FUNCTION django_ray_ring_queue(backend text, queue_name text) RETURNS void LANGUAGE plpgsql VOLATILE
SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM django_ray_ring('queue:' || backend || ':' || queue_name), django_ray_ring('queues:' || backend);
END
$$;

CREATE OR REPLACE FUNCTION django_ray_identify(worker int) RETURNS boolean LANGUAGE sql VOLATILE STRICT
RETURN pg_try_advisory_lock(1145721435, worker);

CREATE OR REPLACE FUNCTION django_ray_is_dead(worker int) RETURNS boolean LANGUAGE sql VOLATILE STRICT
RETURN pg_try_advisory_xact_lock(1145721435, worker);

CREATE OR REPLACE FUNCTION django_ray_watch(worker int, seconds float8) RETURNS boolean LANGUAGE plpgsql VOLATILE STRICT AS $$
BEGIN
    PERFORM set_config('lock_timeout', ceil(seconds * 1000)::int::text, true);
    PERFORM pg_advisory_xact_lock(1145721435, worker);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;

CREATE OR REPLACE FUNCTION django_ray_members(of_backend text) RETURNS SETOF int LANGUAGE plpgsql STABLE ROWS 10
SET search_path FROM CURRENT AS $$
BEGIN
    RETURN QUERY
    SELECT id::int FROM django_ray_worker WHERE stopped_at IS NULL AND lost_at IS NULL AND backend = of_backend
    UNION
    SELECT claimed_by_id::int FROM django_ray_execution WHERE state = 'RUNNING' AND backend = of_backend;
END
$$;

CREATE OR REPLACE FUNCTION django_ray_on_end() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM pg_notify('django_ray:results', OLD.task_id::text);
    RETURN NULL;
END
$$;

DROP FUNCTION django_ray_session(int);

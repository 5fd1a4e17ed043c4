-- Tables of a world of their own go back to that of 0.1.0: with the supervisors stopped.
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

CREATE OR REPLACE FUNCTION django_ray_on_end() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM pg_notify('django_ray:results', OLD.task_id::text);
    RETURN NULL;
END
$$;

DROP FUNCTION django_ray_session(int);

DROP FUNCTION django_ray_world();

-- Each function looks where it looked before.
DO $do$
DECLARE
    home oid := (SELECT relnamespace FROM pg_class WHERE oid = 'django_ray_execution'::regclass);
    schema text := quote_ident((SELECT nspname FROM pg_namespace WHERE oid = home));
    function regprocedure;
    path text;
BEGIN
    FOR function, path IN
        SELECT p.oid, substr(setting, length('search_path=') + 1) FROM pg_proc AS p CROSS JOIN unnest(proconfig) AS setting
        WHERE pronamespace = home AND proname LIKE 'django\_ray\_%' AND starts_with(setting, 'search_path=')
    LOOP
        IF starts_with(path, schema || ', ') THEN
            EXECUTE format('ALTER FUNCTION %s SET search_path = %s', function, substr(path, length(schema) + 3));
        END IF;
    END LOOP;
END
$do$;

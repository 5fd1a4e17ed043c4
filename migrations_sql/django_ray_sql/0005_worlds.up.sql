-- Keys and channels belong to these tables: two projects in two schemas of one database do not meet. What tells them apart is the
-- number of their world, the oid of django_ray_execution. A function in SQL is bound to its table when it is made, not by
-- anybody's search_path.
--
-- Tables that 0.1.0 has used stay in its world, 0, whose keys and channels are as they were: supervisors hold them while this
-- runs. deployment.md says how such tables get a world of their own, with the supervisors stopped.
DO $do$
BEGIN
    EXECUTE 'CREATE FUNCTION django_ray_world() RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN ' || CASE
        WHEN EXISTS (SELECT FROM django_ray_worker) OR EXISTS (SELECT FROM django_ray_execution) THEN '0'
        ELSE $$'django_ray_execution'::regclass::oid::int$$
    END;
END
$do$;

-- Neither is STRICT any more: PostgreSQL would not make them a part of the expressions of their callers then, and they would
-- cost each enqueue some microseconds.
CREATE OR REPLACE FUNCTION django_ray_channel(bell text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN django_ray_world() = 0 THEN CASE
        WHEN octet_length('django_ray:' || bell) <= 63 THEN 'django_ray:' || bell
        ELSE 'django_ray#' || to_hex(hashtextextended(bell, 0)) || to_hex(hashtextextended(bell, 1))
    END
    WHEN octet_length('django_ray:' || django_ray_world()::oid || ':' || bell) <= 63
        THEN 'django_ray:' || django_ray_world()::oid || ':' || bell
    ELSE 'django_ray#' || django_ray_world()::oid || ':'
        || to_hex(hashtextextended(bell, 0)) || to_hex(hashtextextended(bell, 1))
END;

CREATE OR REPLACE FUNCTION django_ray_key(bell text) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN hashtext(django_ray_channel(bell));

-- Ring both bells of a queue: for a transaction that has put work behind them. Never waits. Each bell is a lock of the server until
-- the transaction ends, and the server has room for some thousands. So from the 129th time on a transaction notifies without
-- looking, which loses nothing. It counts in a setting of its own.
CREATE OR REPLACE FUNCTION django_ray_ring_queue(backend text, queue_name text) RETURNS void LANGUAGE plpgsql VOLATILE
SET search_path FROM CURRENT AS $$
DECLARE
    rung int := coalesce(nullif(current_setting('django_ray.rung', true), '')::int, 0);
    channel text;
    k int;
BEGIN
    IF rung < 128 THEN
        PERFORM set_config('django_ray.rung', (rung + 1)::text, true);
    END IF;
    FOREACH channel IN ARRAY ARRAY[
        django_ray_channel('queue:' || backend || ':' || queue_name), django_ray_channel('queues:' || backend)
    ] LOOP
        k := hashtext(channel);
        -- Taking and releasing ASLEEP is one expression: between two statements a query cancel would leave the session
        -- lock behind, and nobody could announce any more.
        IF (CASE
                WHEN rung >= 128 THEN true
                WHEN NOT pg_try_advisory_xact_lock_shared(1145721433, k) THEN true
                WHEN pg_try_advisory_lock(1145721434, k) THEN NOT pg_advisory_unlock(1145721434, k)
                ELSE true
            END)
        THEN
            PERFORM pg_notify(channel, '');
        END IF;
    END LOOP;
END
$$;

-- The identity of supervisor n is the lock (1145721435 # world, n): exact, because a collision would keep one of two out.
CREATE OR REPLACE FUNCTION django_ray_identify(worker int) RETURNS boolean LANGUAGE sql VOLATILE STRICT
RETURN pg_try_advisory_lock(1145721435 # django_ray_world(), worker);

CREATE OR REPLACE FUNCTION django_ray_is_dead(worker int) RETURNS boolean LANGUAGE sql VOLATILE STRICT
RETURN pg_try_advisory_xact_lock(1145721435 # django_ray_world(), worker);

CREATE OR REPLACE FUNCTION django_ray_watch(worker int, seconds float8) RETURNS boolean LANGUAGE plpgsql VOLATILE STRICT
SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('lock_timeout', ceil(seconds * 1000)::int::text, true);
    PERFORM pg_advisory_xact_lock(1145721435 # django_ray_world(), worker);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;

-- The server process of the session that is this supervisor; null when none is.
CREATE FUNCTION django_ray_session(worker int) RETURNS int LANGUAGE sql STABLE STRICT
RETURN (
    SELECT pid FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 2 AND granted
        AND classid = (1145721435 # django_ray_world())::oid AND objid = worker::oid
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    LIMIT 1
);

CREATE OR REPLACE FUNCTION django_ray_on_end() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM pg_notify(django_ray_channel('results'), OLD.task_id::text);
    RETURN NULL;
END
$$;

-- The functions of 0002 and 0003 look where the tables are first, whatever the search_path of that day was.
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
        IF split_part(path, ',', 1) <> schema THEN
            EXECUTE format('ALTER FUNCTION %s SET search_path = %s, %s', function, schema, path);
        END IF;
    END LOOP;
END
$do$;

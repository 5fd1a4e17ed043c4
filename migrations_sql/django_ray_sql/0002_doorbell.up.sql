-- The doorbell: NOTIFY, but only when somebody sleeps. docs/architecture.md tells why nothing is lost.
--
-- A bell is a text: 'queue:<backend>:<queue>', 'queues:<backend>' (any queue of it). Each has a channel and a key k.
-- Channels without a key: 'worker:<id>' (control messages), 'supervisors:<backend>' (who comes and goes),
-- 'pauses:<backend>' (a queue was paused) and 'activity:<backend>' (there is something new to show).
-- Three spaces of advisory locks, in the form of two integers with a class of our own:
--   1145721433 IN_FLIGHT  held shared by every transaction that has put work behind the bell, until it ends
--   1145721434 ASLEEP     held shared by every session that waits for the bell
--   1145721435 IDENTITY   held by the session of the supervisor whose RayWorker has that id

-- A channel holds 63 bytes: a longer name would make NOTIFY fail and LISTEN cut it silently.
CREATE FUNCTION django_ray_channel(bell text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN octet_length('django_ray:' || bell) <= 63 THEN 'django_ray:' || bell
    ELSE 'django_ray#' || to_hex(hashtextextended(bell, 0)) || to_hex(hashtextextended(bell, 1))
END;

CREATE FUNCTION django_ray_key(bell text) RETURNS int LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN hashtext(django_ray_channel(bell));

-- Ring: for a transaction that has put work behind the bell. Never waits.
CREATE FUNCTION django_ray_ring(bell text) RETURNS void LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    channel text := django_ray_channel(bell);
    k int := hashtext(channel);
BEGIN
    -- Taking and releasing ASLEEP is one expression: between two statements a query cancel would leave the session
    -- lock behind, and nobody could announce any more.
    IF (CASE
            WHEN NOT pg_try_advisory_xact_lock_shared(1145721433, k) THEN true
            WHEN pg_try_advisory_lock(1145721434, k) THEN NOT pg_advisory_unlock(1145721434, k)
            ELSE true
        END)
    THEN
        PERFORM pg_notify(channel, '');
    END IF;
END
$$;

-- Sleep, step 1: announce. Lasts until leave or the end of the session; count your announcements.
CREATE FUNCTION django_ray_announce(bell text) RETURNS void LANGUAGE sql VOLATILE STRICT
BEGIN ATOMIC
    SELECT pg_advisory_lock_shared(1145721434, django_ray_key(bell));
END;

-- Sleep, step 2: is no transaction left that looked before we announced? If one is, wait for it. Each in a transaction of
-- its own, so that the lock is gone as soon as it is granted.
CREATE FUNCTION django_ray_is_settled(bell text) RETURNS boolean LANGUAGE sql VOLATILE STRICT
RETURN pg_try_advisory_xact_lock(1145721433, django_ray_key(bell));

CREATE FUNCTION django_ray_await_in_flight(bell text) RETURNS void LANGUAGE sql VOLATILE STRICT
BEGIN ATOMIC
    SELECT pg_advisory_xact_lock(1145721433, django_ray_key(bell));
END;

CREATE FUNCTION django_ray_leave(bell text) RETURNS boolean LANGUAGE sql VOLATILE STRICT
RETURN pg_advisory_unlock_shared(1145721434, django_ray_key(bell));

-- Identity: true when this session now is the one life of the supervisor.
CREATE FUNCTION django_ray_identify(worker int) RETURNS boolean LANGUAGE sql VOLATILE STRICT
RETURN pg_try_advisory_lock(1145721435, worker);

-- True, and held until the transaction ends, when no session is that supervisor's.
CREATE FUNCTION django_ray_is_dead(worker int) RETURNS boolean LANGUAGE sql VOLATILE STRICT
RETURN pg_try_advisory_xact_lock(1145721435, worker);

-- Wait for the end of a supervisor's session, for so many seconds at most; true when it has ended. In slices, because who
-- waits for a lock holds back VACUUM; and without an error, because an error is a line in the server's log.
CREATE FUNCTION django_ray_watch(worker int, seconds float8) RETURNS boolean LANGUAGE plpgsql VOLATILE STRICT AS $$
BEGIN
    PERFORM set_config('lock_timeout', ceil(seconds * 1000)::int::text, true);
    PERFORM pg_advisory_xact_lock(1145721435, worker);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;

-- The ring of a backend's supervisors: those that have not ended, and whoever owns what runs, however it ended.
CREATE FUNCTION django_ray_members(of_backend text) RETURNS SETOF int LANGUAGE plpgsql STABLE ROWS 10
SET search_path FROM CURRENT AS $$
BEGIN
    RETURN QUERY
    SELECT id::int FROM django_ray_worker WHERE stopped_at IS NULL AND lost_at IS NULL AND backend = of_backend
    UNION
    SELECT claimed_by_id::int FROM django_ray_execution WHERE state = 'RUNNING' AND backend = of_backend;
END
$$;

CREATE FUNCTION django_ray_ring_queue(backend text, queue_name text) RETURNS void LANGUAGE plpgsql VOLATILE
SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM django_ray_ring('queue:' || backend || ':' || queue_name), django_ray_ring('queues:' || backend);
END
$$;

-- The queues that hold rows of either kind. One index probe per queue, however deep the backlog.
CREATE FUNCTION django_ray_filled_queues(of_backend text) RETURNS SETOF text LANGUAGE plpgsql STABLE ROWS 4
SET search_path FROM CURRENT AS $$
BEGIN
    RETURN QUERY
    WITH RECURSIVE ready(name) AS (
        (SELECT queue_name::text FROM django_ray_execution
         WHERE backend = of_backend AND state = 'READY' AND due_at IS NULL ORDER BY queue_name LIMIT 1)
        UNION ALL
        SELECT (SELECT queue_name::text FROM django_ray_execution
                WHERE backend = of_backend AND state = 'READY' AND due_at IS NULL AND queue_name > ready.name COLLATE "C"
                ORDER BY queue_name LIMIT 1)
        FROM ready WHERE ready.name IS NOT NULL
    ), due(name) AS (
        (SELECT queue_name::text FROM django_ray_execution
         WHERE backend = of_backend AND state = 'READY' AND due_at IS NOT NULL ORDER BY queue_name LIMIT 1)
        UNION ALL
        SELECT (SELECT queue_name::text FROM django_ray_execution
                WHERE backend = of_backend AND state = 'READY' AND due_at IS NOT NULL AND queue_name > due.name COLLATE "C"
                ORDER BY queue_name LIMIT 1)
        FROM due WHERE due.name IS NOT NULL
    )
    SELECT name FROM ready WHERE name IS NOT NULL UNION SELECT name FROM due WHERE name IS NOT NULL;
END
$$;

-- The queues to claim from: those given, or, for a supervisor of any queue, those that hold rows; without the paused ones.
CREATE FUNCTION django_ray_queues(of_backend text, given text[]) RETURNS SETOF text LANGUAGE plpgsql STABLE ROWS 4
SET search_path FROM CURRENT AS $$
BEGIN
    IF given IS NULL THEN
        given := ARRAY(SELECT django_ray_filled_queues(of_backend));
    END IF;
    RETURN QUERY
    SELECT queue FROM unnest(given) AS queue
    WHERE NOT EXISTS (
        SELECT FROM django_ray_queue WHERE backend = of_backend AND name = queue COLLATE "C" AND paused_at IS NOT NULL
    );
END
$$;

-- Since when the oldest claimable row of the queues has been waiting. One index probe per queue and priority, and one for
-- what has fallen due.
CREATE FUNCTION django_ray_oldest(of_backend text, given text[]) RETURNS timestamptz LANGUAGE plpgsql STABLE
SET search_path FROM CURRENT AS $$
BEGIN
    RETURN (
        WITH RECURSIVE queue(name) AS MATERIALIZED (
            SELECT * FROM django_ray_queues(of_backend, given)
        ), head(name, priority, since) AS (
            SELECT queue.name, first.* FROM queue CROSS JOIN LATERAL (
                SELECT priority, greatest(enqueued_at, run_after, last_attempted_at) FROM django_ray_execution
                WHERE backend = of_backend AND queue_name = queue.name AND state = 'READY' AND due_at IS NULL
                ORDER BY priority DESC, task_id LIMIT 1
            ) AS first
            UNION ALL
            SELECT head.name, next.* FROM head CROSS JOIN LATERAL (
                SELECT priority, greatest(enqueued_at, run_after, last_attempted_at) FROM django_ray_execution
                WHERE backend = of_backend AND queue_name = head.name AND state = 'READY' AND due_at IS NULL
                    AND priority < head.priority
                ORDER BY priority DESC, task_id LIMIT 1
            ) AS next
        ), due(since) AS (
            SELECT first.due_at FROM queue CROSS JOIN LATERAL (
                SELECT due_at FROM django_ray_execution
                WHERE backend = of_backend AND queue_name = queue.name AND state = 'READY' AND due_at IS NOT NULL
                    AND due_at <= statement_timestamp()
                ORDER BY due_at LIMIT 1
            ) AS first
        )
        SELECT min(since) FROM (SELECT since FROM head UNION ALL SELECT since FROM due) AS waiting
    );
END
$$;

CREATE FUNCTION django_ray_on_insert() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM django_ray_ring_queue(backend, queue_name)
    FROM (SELECT DISTINCT backend, queue_name FROM new_rows WHERE state = 'READY') AS queue;
    RETURN NULL;
END
$$;

CREATE FUNCTION django_ray_on_update() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM django_ray_ring_queue(NEW.backend, NEW.queue_name);
    RETURN NULL;
END
$$;

CREATE TRIGGER django_ray_on_insert AFTER INSERT ON django_ray_execution
REFERENCING NEW TABLE AS new_rows
FOR EACH STATEMENT EXECUTE FUNCTION django_ray_on_insert();

-- Any UPDATE that leaves a row claimable: a retry, a rescue, a change of queue or due time by anybody. Also one that changes
-- nothing of note: a claim that met its lock has skipped the row. The hot path (claim and record of a finished row) only
-- evaluates the condition.
CREATE TRIGGER django_ray_on_update AFTER UPDATE ON django_ray_execution
FOR EACH ROW WHEN (NEW.state = 'READY') EXECUTE FUNCTION django_ray_on_update();

-- Who waits for a result has marked its row, and listens.
CREATE FUNCTION django_ray_on_end() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM pg_notify('django_ray:results', OLD.task_id::text);
    RETURN NULL;
END
$$;

CREATE TRIGGER django_ray_on_finish AFTER UPDATE OF finished_at ON django_ray_execution
FOR EACH ROW WHEN (NEW.awaited AND OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL)
EXECUTE FUNCTION django_ray_on_end();

CREATE TRIGGER django_ray_on_delete AFTER DELETE ON django_ray_execution
FOR EACH ROW WHEN (OLD.awaited AND OLD.finished_at IS NULL) EXECUTE FUNCTION django_ray_on_end();

-- Cancelling what runs is its supervisor's work; the row is the truth, this only says "look".
CREATE FUNCTION django_ray_on_cancel() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM pg_notify(django_ray_channel('worker:' || NEW.claimed_by_id), '');
    RETURN NULL;
END
$$;

CREATE TRIGGER django_ray_on_cancel AFTER UPDATE OF cancel_requested_at ON django_ray_execution
FOR EACH ROW WHEN (NEW.state = 'RUNNING' AND NEW.cancel_requested_at IS NOT NULL)
EXECUTE FUNCTION django_ray_on_cancel();

-- Pausing tells the supervisors, which give back what they have claimed and not begun. Resuming puts work behind the bell.
CREATE FUNCTION django_ray_on_pause() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'DELETE' OR NEW.paused_at IS NULL THEN
        PERFORM django_ray_ring_queue(OLD.backend, OLD.name);
    ELSE
        PERFORM pg_notify(django_ray_channel('pauses:' || NEW.backend), '');
    END IF;
    PERFORM pg_notify(django_ray_channel('activity:' || coalesce(NEW.backend, OLD.backend)), '');
    RETURN NULL;
END
$$;

CREATE TRIGGER django_ray_on_pause AFTER UPDATE OF paused_at ON django_ray_queue
FOR EACH ROW WHEN (OLD.paused_at IS DISTINCT FROM NEW.paused_at) EXECUTE FUNCTION django_ray_on_pause();

CREATE TRIGGER django_ray_on_unpause AFTER DELETE ON django_ray_queue
FOR EACH ROW WHEN (OLD.paused_at IS NOT NULL) EXECUTE FUNCTION django_ray_on_pause();

CREATE TRIGGER django_ray_on_paused AFTER INSERT ON django_ray_queue
FOR EACH ROW WHEN (NEW.paused_at IS NOT NULL) EXECUTE FUNCTION django_ray_on_pause();

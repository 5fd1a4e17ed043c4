-- Roles with the rights that each kind of process needs, and no others. docs/operations.md tells how to use them.
--
-- Run this in the project's database, on the search_path that Django has, as the owner of the tables: after migrate, and
-- again after each upgrade. It may be run as often as you like. Whoever runs it first needs CREATEROLE as well. Roles belong
-- to the whole server; for other names, change them throughout the file.
BEGIN;

DO $do$
DECLARE
    -- Wherever the tables are.
    home name := (
        SELECT nspname FROM pg_class JOIN pg_namespace AS schema ON schema.oid = relnamespace
        WHERE pg_class.oid = 'django_ray_execution'::regclass
    );
    group_role name;
BEGIN
    FOREACH group_role IN ARRAY ARRAY['django_ray_web', 'django_ray_operator', 'django_ray_supervisor'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = group_role) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', group_role);
        END IF;
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', home, group_role);
    END LOOP;
    -- An admin enqueues as well, and tasks enqueue in the processes of a supervisor.
    FOREACH group_role IN ARRAY ARRAY['django_ray_operator', 'django_ray_supervisor'] LOOP
        IF NOT pg_has_role(group_role, 'django_ray_web', 'MEMBER') THEN
            EXECUTE format('GRANT django_ray_web TO %I', group_role);
        END IF;
    END LOOP;
    -- PostgreSQL 14 lets everybody make tables and functions in public, where others would find them.
    IF has_schema_privilege('public', home, 'CREATE') THEN
        EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', home);
    END IF;
END
$do$;

-- What an earlier version of this file has granted, or somebody else. Nobody sees the moment in between.
REVOKE ALL ON
    django_ray_execution, django_ray_queue, django_ray_worker, django_ray_minute, django_ray_progress, django_ray_schedule,
    django_ray_gate, django_ray_flow, django_ray_edge
FROM django_ray_web, django_ray_operator, django_ray_supervisor;

-- Functions run with the rights of their caller, those excepted where it says so, and PostgreSQL lets everybody call most of
-- them. They are granted all the same, for databases whose default privileges take that away. Those of triggers need no
-- grant, but what they call does.

-- A web process: enqueues, reads results, waits for them, cancels.

GRANT SELECT -- a result is the whole row
    -- what django_ray_enqueue(), django_ray_enqueue_admitted() and a plain INSERT give; all else has its default
    , INSERT (
        backend, queue_name, priority, callable_path, args, kwargs, options, carrier, enqueued_at, run_after, due_at,
        task_id, unique_key, gate, gate_rule, expires_at, flow_id, needs
    )
    , UPDATE (awaited) -- the mark of who waits
ON django_ray_execution TO django_ray_web;

GRANT SELECT ON django_ray_progress TO django_ray_web; -- result.progress

GRANT SELECT, INSERT (backend, name) ON django_ray_flow TO django_ray_web; -- Flow

GRANT SELECT ON django_ray_edge TO django_ray_web; -- why(), context.upstreams()

GRANT EXECUTE ON FUNCTION
    django_ray_uuid7(), -- the default of task_id
    django_ray_enqueue(text, json), django_ray_enqueue_admitted(text, json),
    django_ray_enqueue_round(text, json, uuid[], text[], int[]),
    django_ray_replace(uuid, text, json), -- with the rights of the owner: unique="replace"
    -- with the rights of the owner: cancelling is all that these can do
    django_ray_cancel(uuid), django_ray_cancel_flow(uuid),
    -- with the rights of the owner: what an execution waits for, and what follows from it
    django_ray_link(json, uuid[]), django_ray_linked(uuid[]), django_ray_is_held(uuid),
    django_ray_ring_queue(text, text), django_ray_channel(text), django_ray_world() -- called by triggers
TO django_ray_web;

-- The admin, the live page, the metrics view and the management commands.

GRANT DELETE -- delete, prune
    -- retry, and cancel of many
    , UPDATE (state, due_at, finished_at, cancel_requested_at, errors, failures, losses, missing_since, released)
    , UPDATE (is_upstream) -- django_ray_flows --repair: the mark that others wait for it
    , INSERT (schedule_id, tick) -- run_now, backfill
ON django_ray_execution TO django_ray_operator;

GRANT SELECT
    , INSERT (backend, name, paused_at, paused_by, paused_because), UPDATE (paused_at, paused_by, paused_because) -- pause, resume
ON django_ray_queue TO django_ray_operator;

-- Schedules: all of a row, as Django writes it. By columns, since who may write the whole table is warned of.
GRANT SELECT, DELETE
    , INSERT (
        backend, name, callable_path, args, kwargs, queue_name, priority, options, admission, cron, every, time_zone, missed,
        missed_within, overlap, is_declared, gone_at, seen, paused_at, last_at, next_at, lag, problem
    )
    , UPDATE (
        backend, name, callable_path, args, kwargs, queue_name, priority, options, admission, cron, every, time_zone, missed,
        missed_within, overlap, is_declared, gone_at, seen, paused_at, since, last_at, next_at, lag, skipped, lost, problem
    )
ON django_ray_schedule TO django_ray_operator;

GRANT SELECT, DELETE -- what overrides the limits of gates
    , INSERT (backend, name, "limit", rate_count, rate_per, rate_burst, next_at)
    , UPDATE (backend, name, "limit", rate_count, rate_per, rate_burst, next_at)
ON django_ray_gate TO django_ray_operator;

GRANT UPDATE (cancelled_at), DELETE ON django_ray_flow TO django_ray_operator; -- retry of a flow; delete

GRANT DELETE ON django_ray_edge TO django_ray_operator; -- django_ray_flows --repair

GRANT SELECT ON django_ray_worker, django_ray_minute TO django_ray_operator;

GRANT DELETE ON django_ray_progress TO django_ray_operator; -- delete, prune

GRANT EXECUTE ON FUNCTION
    django_ray_filled_queues(text), django_ray_queues(text, text[]), django_ray_oldest(text, text[]), -- what is shown
    django_ray_session(int), -- who is here
    django_ray_gate_rule(text, text, jsonb), django_ray_number(jsonb, float8, float8), -- gates, as they stand
    django_ray_enqueue_ticks(int[], timestamptz[]), -- run_now, backfill
    django_ray_ring(text), -- by triggers: a limit of a gate has changed
    django_ray_settle(uuid[]), -- by triggers, with the rights of the owner: what follows from a retry and a cancel
    django_ray_is_needed(uuid), -- prune: does somebody wait for it?
    django_ray_reach(uuid[], uuid[]), django_ray_culprit(uuid, text, jsonb), -- django_ray_flows --repair
    django_ray_announce(text), django_ray_leave(text), django_ray_key(text) -- the live page hears of what is enqueued
TO django_ray_operator;

-- django-ray-listen, and the Ray workers, which record for it, and read the rows that are too large for a claim: they have the
-- right to SELECT from django_ray_web.

GRANT DELETE -- PRUNE_AFTER
    , UPDATE (
        state, due_at, attempt_number, failures, losses, worker_ids, claimed_by_id, started_at, last_attempted_at, -- claim
        finished_at, result, output, errors, missing_since, released, -- record
        carrier, -- context.save_metadata()
        cancel_requested_at -- a Ray worker that gives back what somebody wants cancelled
    )
    , INSERT (schedule_id, tick) -- what schedules enqueue
ON django_ray_execution TO django_ray_supervisor;

GRANT SELECT
    -- what the code declares
    , INSERT (
        backend, name, callable_path, args, kwargs, queue_name, priority, options, admission, cron, every, time_zone, missed,
        missed_within, overlap, is_declared, seen
    )
    , UPDATE (
        callable_path, args, kwargs, queue_name, priority, options, admission, cron, every, time_zone, missed, missed_within, overlap,
        is_declared, gone_at, seen,
        last_at, next_at, lag, skipped, lost, problem -- ticks
    )
ON django_ray_schedule TO django_ray_supervisor;

GRANT DELETE -- PRUNE_AFTER
    -- context.progress(), and what who watches is told
    , INSERT (task_id, attempt, fraction, message, at)
    , UPDATE (attempt, fraction, message, at, number, output, lines)
ON django_ray_progress TO django_ray_supervisor;

GRANT SELECT, DELETE -- limits of gates; PRUNE_AFTER
    , INSERT (backend, name, next_at), UPDATE (next_at) -- each start where there is a rate
ON django_ray_gate TO django_ray_supervisor;

GRANT DELETE -- PRUNE_AFTER
    , UPDATE (cancelled_at) -- which locks what it deletes
ON django_ray_flow TO django_ray_supervisor;

GRANT SELECT -- who is paused; only an operator pauses
ON django_ray_queue TO django_ray_supervisor;

GRANT SELECT, DELETE -- its peers; PRUNE_AFTER
    , INSERT (hostname, pid, backend, queues, ray_address, version, pulse, concurrency, resources, replicas, wanted)
    , UPDATE (pulse_at, stopped_at, lost_at, rescued, concurrency, resources, replicas, wanted)
ON django_ray_worker TO django_ray_supervisor;

GRANT SELECT, DELETE -- what is older than a day
    , INSERT (
        minute, backend, queue_name, worker_id, succeeded, failed, retried, cancelled, postponed, waited, longest_wait
    )
    , UPDATE (succeeded, failed, retried, cancelled, postponed, waited, longest_wait)
ON django_ray_minute TO django_ray_supervisor;

GRANT SELECT -- before it starts: are the tables as new as the code?
ON django_migrations TO django_ray_supervisor;

GRANT EXECUTE ON FUNCTION
    django_ray_heads(text, text[], text, int), django_ray_queues(text, text[]), django_ray_oldest(text, text[]), -- what to claim
    django_ray_is_passed_over(text, text[], uuid[]), django_ray_later(text, text[]),
    django_ray_is_small(jsonb, jsonb, jsonb, jsonb, jsonb, jsonb),
    django_ray_admissible(text, text[], int, text, text), django_ray_in_lanes(text, text[], jsonb, int, int, text, text), django_ray_make_way(text), django_ray_expire(text), -- gates
    django_ray_places(text, text, jsonb, int), django_ray_gate_rule(text, text, jsonb),
    django_ray_number(jsonb, float8, float8), django_ray_error(text, text, jsonb),
    django_ray_ring(text), -- by triggers: a place behind a gate is free
    django_ray_settle(uuid[]), django_ray_settle_late(), django_ray_is_needed(uuid), -- flows
    django_ray_key(text), django_ray_announce(text), django_ray_leave(text), -- sleep
    django_ray_is_settled(text), django_ray_await_in_flight(text),
    django_ray_identify(int), django_ray_session(int), -- liveness
    django_ray_is_dead(int), django_ray_watch(int, float8), django_ray_members(text),
    django_ray_declare(text, json, json, boolean), django_ray_seen(jsonb, jsonb), -- schedules
    django_ray_enqueue_ticks(int[], timestamptz[])
TO django_ray_supervisor;

COMMIT;

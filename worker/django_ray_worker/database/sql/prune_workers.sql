-- Delete up to limit supervisors of our backend that ended, or were found dead, so many seconds ago and own nothing; the first
-- that ended first.
WITH doomed AS MATERIALIZED (
    SELECT id FROM django_ray_worker AS worker
    WHERE backend = %(backend)s AND (stopped_at IS NOT NULL OR lost_at IS NOT NULL)
        AND coalesce(stopped_at, lost_at) < statement_timestamp() - make_interval(secs => %(age)s)
        AND NOT EXISTS (SELECT FROM django_ray_execution WHERE state = 'RUNNING' AND claimed_by_id = worker.id)
    ORDER BY coalesce(stopped_at, lost_at)
    LIMIT %(limit)s
    FOR UPDATE OF worker SKIP LOCKED
)
DELETE FROM django_ray_worker WHERE id = ANY (ARRAY(SELECT id FROM doomed))

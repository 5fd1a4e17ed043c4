-- Delete up to limit rows of our backend that ended so many seconds ago, oldest first; what somebody else has locked stays, and so do
-- results that somebody unfinished waits for.
WITH doomed AS MATERIALIZED (
    SELECT task_id FROM django_ray_execution
    WHERE backend = %(backend)s AND finished_at IS NOT NULL
        AND finished_at < statement_timestamp() - make_interval(secs => %(age)s)
        AND NOT (is_upstream AND django_ray_is_needed(task_id))
    ORDER BY finished_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
), of_progress AS (
    DELETE FROM django_ray_progress WHERE task_id = ANY (ARRAY(SELECT task_id FROM doomed))
)
DELETE FROM django_ray_execution WHERE task_id = ANY (ARRAY(SELECT task_id FROM doomed))

-- Lock the rows that are still those of these claims, by the primary key as record.sql, and tell which are free. The others are
-- somebody else's for the moment. Nobody is waited for.
WITH ours AS MATERIALIZED (
    SELECT execution.task_id
    FROM json_to_recordset(%(claims)s::json) AS claim(task_id uuid, attempt int, worker int)
    CROSS JOIN LATERAL (
        SELECT task_id FROM django_ray_execution AS execution
        WHERE execution.task_id = claim.task_id
            AND execution.attempt_number = claim.attempt
            AND execution.claimed_by_id IS NOT DISTINCT FROM claim.worker
    ) AS execution
), free AS MATERIALIZED (
    SELECT execution.task_id
    FROM json_to_recordset(%(claims)s::json) AS claim(task_id uuid, attempt int, worker int)
    CROSS JOIN LATERAL (
        SELECT task_id FROM django_ray_execution AS execution
        WHERE execution.task_id = claim.task_id
            AND execution.attempt_number = claim.attempt
            AND execution.claimed_by_id IS NOT DISTINCT FROM claim.worker
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS execution
)
SELECT task_id, task_id IN (SELECT task_id FROM free) AS is_free FROM ours

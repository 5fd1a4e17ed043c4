-- What a dead supervisor left running, with the fence to record it.
SELECT
    execution.task_id, attempt_number, claimed_by_id, queue_name, callable_path, options, failures, losses,
    '' AS payload
FROM django_ray_execution AS execution
WHERE state = 'RUNNING' AND claimed_by_id = %(worker)s
ORDER BY task_id
LIMIT 1000

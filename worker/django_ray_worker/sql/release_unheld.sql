-- Rows that run in our name although we hold no claim of them: the reply to a claim's COMMIT was lost.
UPDATE django_ray_execution SET state = 'READY', claimed_by_id = NULL
WHERE state = 'RUNNING' AND claimed_by_id = %(worker)s AND NOT task_id = ANY (%(held)s::uuid[])
RETURNING task_id

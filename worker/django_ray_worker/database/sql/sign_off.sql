-- Who leaves something running stays to be found dead.
UPDATE django_ray_worker AS worker SET stopped_at = statement_timestamp()
WHERE id = %(worker)s AND lost_at IS NULL
    AND NOT EXISTS (SELECT FROM django_ray_execution WHERE state = 'RUNNING' AND claimed_by_id = worker.id)
RETURNING pg_notify(django_ray_channel('supervisors:' || backend), '')

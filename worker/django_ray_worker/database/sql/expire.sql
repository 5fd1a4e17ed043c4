-- What has not begun by its time ends; how many have.
SELECT django_ray_expire(%(backend)s) AS number

SELECT pg_notify(django_ray_channel(%(bell)s), %(payload)s)

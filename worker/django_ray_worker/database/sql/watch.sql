SELECT django_ray_watch(%(worker)s, %(seconds)s)

SELECT django_ray_identify(%(worker)s)

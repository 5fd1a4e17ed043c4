SELECT django_ray_leave(bell) FROM unnest(%(bells)s::text[]) AS bell

SELECT bell, django_ray_channel(bell) FROM unnest(%(bells)s::text[]) AS bell

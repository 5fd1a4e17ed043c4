DROP FUNCTION django_ray_cancel(uuid);

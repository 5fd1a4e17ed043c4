-- At full gates, for who does not want to wait there: how many were cancelled, how many that run shall be, and whether somebody was in the way.
SELECT refused, stopped, has_skipped FROM django_ray_make_way(%(backend)s)

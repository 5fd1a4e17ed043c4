-- Flows: what somebody was in the way of. Whether somebody still is.
SELECT django_ray_settle_late() AS has_skipped

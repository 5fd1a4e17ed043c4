"""python -m django_ray_worker is django-ray-listen."""

from django_ray_worker.main import main

main()

"""Django's own tests of django.tasks, against RayTaskBackend; django_shim.py says how, and what is left out and why."""

from tests.django_shim import cases

globals().update(cases())

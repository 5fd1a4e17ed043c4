"""The Django application: models, migrations and system checks."""

from importlib import import_module

from django.apps import AppConfig


class DjangoRayConfig(AppConfig):
    """django_ray in INSTALLED_APPS."""

    name = "django_ray"
    verbose_name = "Django Ray"
    default_auto_field = "django.db.models.AutoField"

    def ready(self) -> None:
        """Register the system checks."""
        import_module("django_ray.checks")

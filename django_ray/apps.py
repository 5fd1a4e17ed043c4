"""The Django application: models, migrations and system checks."""

from django.apps import AppConfig


class DjangoRayConfig(AppConfig):
    """django_ray in INSTALLED_APPS."""

    name = "django_ray"
    verbose_name = "Django Ray"
    default_auto_field = "django.db.models.AutoField"

    def ready(self) -> None:
        """Register the system checks."""
        from django_ray import checks  # noqa: F401 - imported for its registrations

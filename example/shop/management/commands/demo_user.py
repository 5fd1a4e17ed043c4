"""Create the user that docker-compose.yml names, unless there is one."""

import os
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    """For trying it out: a superuser whose password everybody knows."""

    help = "Create the superuser DEMO_USER with the password DEMO_PASSWORD, unless there is one of that name."

    def handle(self, **_: Any) -> None:
        """Create it."""
        users: Any = get_user_model()
        name, password = os.environ["DEMO_USER"], os.environ["DEMO_PASSWORD"]
        if not users.objects.filter(username=name).exists():
            users.objects.create_superuser(name, password=password)

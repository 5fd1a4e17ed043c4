"""The web application."""

import os

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
# Good enough for an example; in production a web server or WhiteNoise serves them.
application = ASGIStaticFilesHandler(get_asgi_application())

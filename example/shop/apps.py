"""The shop."""

from django.apps import AppConfig


class ShopConfig(AppConfig):
    """An app like any other: its tasks are ordinary functions."""

    name = "shop"

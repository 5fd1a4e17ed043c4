"""What the shop keeps."""

from django.db import models


class Parcel(models.Model):
    """An order on its way. Nothing but the task that sends it keeps it from being sent twice."""

    order = models.IntegerField()

    def __str__(self) -> str:
        """Return which order it is."""
        return f"parcel of order {self.order}"

from django.db import migrations

from django_ray.migrations._operations import RunFile


class Migration(migrations.Migration):
    dependencies = [("django_ray", "0004_cancel")]

    operations = [RunFile("0005_worlds")]

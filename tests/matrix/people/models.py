"""Users who have no groups and no name but their address, and whose permissions are nobody's rows."""

from uuid import uuid4

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.db import models


class People(BaseUserManager):
    def create_superuser(self, email, **fields):
        return self.create(email=email, **fields)


class Person(AbstractBaseUser):
    id = models.UUIDField(primary_key=True, default=uuid4)
    email = models.EmailField(unique=True)
    objects = People()
    USERNAME_FIELD = "email"
    is_staff = is_active = True

    def has_perm(self, permission, obj=None):
        return True

    has_module_perms = has_perm

"""One page, one action, and the admin."""

from django.contrib import admin
from django.urls import path

from shop import views

urlpatterns = [
    path("", views.index, name="index"),
    path("enqueue/<slug:name>/", views.enqueue, name="enqueue"),
    path("progress/<uuid:result_id>/", views.progress, name="progress"),
    path("admin/", admin.site.urls),
    path("health/", views.health, name="health"),
]

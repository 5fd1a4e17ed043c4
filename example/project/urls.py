"""One page, one action, and the admin."""

from django.contrib import admin
from django.urls import path

from shop import views

urlpatterns = [
    path("", views.index, name="index"),
    path("enqueue/<slug:name>/", views.enqueue, name="enqueue"),
    path("progress/<uuid:result_id>/", views.progress, name="progress"),
    path("import/", views.import_files, name="import_files"),
    path("flow/<uuid:flow_id>/", views.flow, name="flow"),
    path("flow/<uuid:flow_id>/progress/", views.flow_progress, name="flow_progress"),
    path("flow/<uuid:flow_id>/cancel/", views.cancel_flow, name="cancel_flow"),
    path("admin/", admin.site.urls),
    path("health/", views.health, name="health"),
]

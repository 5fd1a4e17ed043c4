"""One page, one action."""

from django.urls import path

from shop import views

urlpatterns = [
    path("", views.index, name="index"),
    path("enqueue/<slug:name>/", views.enqueue, name="enqueue"),
    path("health/", views.health, name="health"),
]

from django.urls import path, re_path
from django.views.static import serve

from example_apps.notes.pages import STATIC

from . import views

urlpatterns = [
    path("", views.index),
    path("notes", views.create),
    path("notes/new", views.new),
    path("notes/<int:note_id>", views.OneNote.as_view()),
    path("notes/<int:note_id>/delete", views.delete),
    path("api/notes", views.ApiNotes.as_view()),
    path("api/notes/<int:note_id>", views.ApiNote.as_view()),
    path("export.csv", views.export),
    path("health", views.alive),
    path("ready", views.ready),
    re_path(r"^static/(?P<path>.*)$", serve, {"document_root": STATIC}),
]

handler400 = views.bad_request
handler404 = views.not_found
handler500 = views.server_error
handler503 = views.resting  # the adapter's addition to Django's own

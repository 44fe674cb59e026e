"""Points the shared models at this project's database. Models of your own: `from peewee_web.django import Model`."""

from django.apps import AppConfig


class NotesConfig(AppConfig):
    name = "example_apps.django_notes"

    def ready(self) -> None:
        from example_apps.notes import models
        from peewee_web.django import databases

        models.database.initialize(databases.proxy())

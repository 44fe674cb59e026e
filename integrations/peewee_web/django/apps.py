"""The Django app, which has no models of Django's: it brings the system checks."""

from django.apps import AppConfig


class PeeweeConfig(AppConfig):
    name = "peewee_web.django"
    label = "peewee_web"
    verbose_name = "Peewee"

    def ready(self) -> None:
        from . import checks  # noqa: F401  # registers them

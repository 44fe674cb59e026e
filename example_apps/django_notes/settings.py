"""The notebook's settings. The adapter is the app, the middleware and PEEWEE; Django's own ORM is not used."""

from example_apps.notes import connect

PEEWEE = {"DATABASES": {"default": connect()}}  # or a URL

INSTALLED_APPS = ["peewee_web.django", "example_apps.django_notes"]
# Nobody logs in here, so no session needs guarding: with users come SessionMiddleware and CsrfViewMiddleware.
MIDDLEWARE = ["peewee_web.django.PeeweeMiddleware", "example_apps.django_notes.views.MissingNotes"]

ROOT_URLCONF = "example_apps.django_notes.urls"
WSGI_APPLICATION = "example_apps.django_notes.wsgi.application"
ALLOWED_HOSTS = ["*"]
SECRET_KEY = "nothing is signed with it"
USE_TZ = True

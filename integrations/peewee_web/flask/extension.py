"""The Flask extension: configuration from ``app.config``, a scope per request and per app context.

The scope of a request is begun and ended around ``app.wsgi_app``, outside everything that Flask or the app can skip
or break (Flask <= 3.1 drops the remaining teardown functions when one raises). Hooks of Flask's own do what depends on
the request: the transaction, the 503, connecting early.
"""

from __future__ import annotations

import sys
from typing import Any

from flask import Flask, Request, Response, current_app, g, has_app_context, request
from flask.signals import appcontext_pushed
from flask.typing import ResponseReturnValue
from peewee import Model
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.wsgi import ClosingIterator, FileWrapper

from ..core.errors import NoConnection
from ..core.registry import DEFAULT, Databases
from ..core.scope import Scope, current_scope
from ..core.scoped import ScopedDatabase
from ..core.unavailable import body_of, retry_after
from ..wsgi import COMPLETE, ScopeMiddleware

EXTENSION = "peewee"
_SCOPE_OF_CONTEXT = "_peewee_scope"

# PEEWEE_LAZY and so on in app.config, each an option of `Databases`.
_OPTIONS = ("lazy", "atomic", "commit_when", "exclude", "choose", "read_only")


class Peewee:
    """One healthy connection per request for Flask apps; one object may serve several apps.

    The database is given here, to `init_app`, or in ``app.config``: ``PEEWEE_DATABASE`` (a URL or a Peewee database)
    or ``PEEWEE_DATABASES`` (a mapping of names to either), with ``PEEWEE_LAZY``, ``PEEWEE_ATOMIC``,
    ``PEEWEE_COMMIT_WHEN``, ``PEEWEE_EXCLUDE`` (paths or endpoints), ``PEEWEE_CHOOSE`` (given ``flask.request``) and
    ``PEEWEE_READ_ONLY``. What is given in code goes before what is configured. Models derive from ``db.Model``.
    """

    def __init__(self, app: Flask | None = None, database: Any = None, **options: Any) -> None:
        self._database = database
        self._options = options
        #: Stands for the default database of the app at hand, for models and for ``db.database.atomic()``.
        self.database = ScopedDatabase(fallback=self._configured)
        if app is not None:
            self.init_app(app)

    @property
    def Model(self) -> type[Model]:
        """The base class of models that live in the default database of the app at hand."""
        base: type[Model] = self.database.Model
        return base

    @property
    def databases(self) -> Databases:
        """The databases of the current app, by name; in a request with what ``choose`` chooses for the default one.

        Raises `RuntimeError` outside the context of an app.
        """
        databases = self._configured()
        if databases is None:
            raise RuntimeError(
                "no Flask app with this Peewee extension is active: call db.init_app(app), and use db in a request "
                "or inside `with app.app_context():`"
            )
        scope = current_scope()
        seen = None if scope is None else scope.databases
        return seen if seen is not None and seen.origin is databases else databases

    def _configured(self) -> Databases | None:
        if not has_app_context():
            return None
        extension = current_app.extensions.get(EXTENSION)
        return extension.of_app if isinstance(extension, _Registration) and extension.owner is self else None

    def init_app(self, app: Flask, database: Any = None, **options: Any) -> None:
        """Serve *app*. Raises `RuntimeError` when it is registered already or no database is configured."""
        if EXTENSION in app.extensions:
            raise RuntimeError(
                f"a Peewee extension is registered on this Flask app ({app.import_name}) already: call init_app once, "
                "and name further databases in PEEWEE_DATABASES"
            )
        databases = Databases.of(self._choose_database(app, database), **self._choose_options(app, options))
        # Where requests choose it, there need be none of that name: the tenants are of one kind.
        self.database.initialize(
            databases.get(DEFAULT, databases.adopted[0]) if databases.choose else databases.default
        )
        registration = _Registration(app, self, databases)
        app.extensions[EXTENSION] = registration

        app.wsgi_app = ScopeMiddleware(app.wsgi_app, databases, registration.request_of)  # type: ignore[method-assign]  # as Flask's docs say
        if not databases.lazy or databases.exclude:
            app.before_request_funcs.setdefault(None, []).insert(0, registration.before_request)
        # As with wsgi_app: methods that Flask documents, replaced on this app by ours, which call them.
        app.process_response = registration.process_response  # type: ignore[method-assign, assignment]  # Flask's docs: to be replaced
        app.register_error_handler(NoConnection, answer_unavailable)
        app.handle_exception = registration.handle_exception  # type: ignore[method-assign]  # Flask's docs: to be replaced
        app.do_teardown_appcontext = registration.do_teardown_appcontext  # type: ignore[method-assign, assignment]  # Flask's docs: to be replaced
        appcontext_pushed.connect(registration.appcontext_pushed, app)

    def _choose_database(self, app: Flask, database: Any) -> Any:
        for choice in (database, self._database, app.config.get("PEEWEE_DATABASES"), app.config.get("PEEWEE_DATABASE")):
            if choice is not None:
                return choice
        raise RuntimeError(
            "no database is configured for this Flask app: set app.config['PEEWEE_DATABASE'] to a URL such as "
            "'sqlite:///app.db' before db.init_app(app), or pass one to it"
        )

    def _choose_options(self, app: Flask, options: dict[str, Any]) -> dict[str, Any]:
        keys = {option: f"PEEWEE_{option.upper()}" for option in _OPTIONS}
        configured = {option: app.config[key] for option, key in keys.items() if key in app.config}
        return {**configured, **self._options, **options}


class _Registration:
    """One app that an extension serves, and its hooks. In ``app.extensions["peewee"]``."""

    def __init__(self, app: Flask, owner: Peewee, of_app: Databases) -> None:
        self.app = app
        self.owner = owner
        self.of_app = of_app
        self._process_response = app.process_response
        self._handle_exception = app.handle_exception
        self._do_teardown_appcontext = app.do_teardown_appcontext

    def request_of(self, environ: Any) -> Request:
        """Flask's own, also where it is current no more, as in a streamed body, or not yet, in WSGI middleware."""
        made = environ.get("werkzeug.request")
        return made if isinstance(made, self.app.request_class) else self.app.request_class(environ)

    def before_request(self) -> ResponseReturnValue | None:
        scope = current_scope()
        if scope is not None:
            if self.of_app.excludes(request.path, request.endpoint):
                scope.set_atomic(False)
            elif not scope.lazy:
                scope.connect()
        return None

    def process_response(self, *args: Any) -> Response:
        """After all ``after_request`` functions and the session: now no code of the app's can change the status."""
        response = self._process_response(*args)
        scope = current_scope()
        if scope is not None:
            scope.complete(self.of_app.commit_when(response.status_code))
            if isinstance(response.response, ClosingIterator):
                scope.release()  # a WSGI app's body: an HTTPException's page, or one that may take another connection
        # Werkzeug wraps every body in an iterator; the middleware can't see which is complete.
        request.environ[COMPLETE] = response.is_sequence or isinstance(response.response, FileWrapper)
        return response

    def handle_exception(self, e: Exception) -> Response:
        """No connection where Flask asks no error handler: in sessions, ``after_request`` functions, error pages."""
        try:
            if not isinstance(e, NoConnection):
                return self._handle_exception(e)
            answer = self.app.handle_user_exception(e)
        except NoConnection as in_error_page:
            answer = _service_unavailable(in_error_page)
        return self.app.finalize_request(answer, from_error_handler=True)

    def appcontext_pushed(self, app: Flask, **_: Any) -> None:
        """Code in an app context of its own (a CLI command, a script, a test) gets a scope as well."""
        scope = current_scope()
        if scope is None or scope.ended or scope.databases is None or scope.databases.origin is not self.of_app:
            setattr(g, _SCOPE_OF_CONTEXT, _ContextScope(self.of_app.scope()))

    def do_teardown_appcontext(self, *args: Any) -> None:
        """After all teardown functions of the app's, and whatever they raise (Flask <= 3.1 skips the rest then)."""
        error = next((arg for arg in args if isinstance(arg, BaseException)), None)
        try:
            self._do_teardown_appcontext(*args)
        except BaseException as in_teardown:
            error = in_teardown
            raise
        finally:
            context_scope: _ContextScope | None = g.pop(_SCOPE_OF_CONTEXT, None)
            if context_scope is not None:
                context_scope.leave(error)


class _ContextScope:
    """The scope of an app context that is not a request's. Lives in the context's ``g``."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._activation = scope.activate()
        self._activation.__enter__()
        self._handled = sys.exc_info()[1]  # by whoever pushed the context

    def leave(self, error: BaseException | None) -> None:
        self._activation.__exit__()
        if error is None and sys.exc_info()[1] is not self._handled:
            error = sys.exc_info()[1]  # click < 8.2 tells the contexts of a failing command of no error
        try:
            self._scope.complete(commit=error is None)
        finally:
            self._scope.end()


def answer_unavailable(error: NoConnection) -> ResponseReturnValue:
    """503 through Flask's own error handling: an app's ``@app.errorhandler(503)`` styles it."""
    return current_app.handle_user_exception(_service_unavailable(error))


def _service_unavailable(error: NoConnection) -> ServiceUnavailable:
    answer = ServiceUnavailable(body_of(error), retry_after=retry_after(error))
    answer.__cause__ = error
    return answer

"""The first start: tables, search index and a dozen notes to look at."""

from __future__ import annotations

import re
from datetime import timedelta

from peewee import Database

from . import search
from .forms import NoteForm
from .models import TABLES, Note, database, now
from .store import create


def setup(own: Database | None = None) -> None:
    """Create what is missing, and fill an empty notebook. `own` binds the models first. Safe to call at every start."""
    if own is not None:
        database.initialize(own)
    database.create_tables(TABLES)
    search.engine(database).create(database)
    if not Note.select().exists():
        seed()


def seed() -> None:
    """A dozen notes, the first the oldest, spread over the last days."""
    with database.atomic():
        for age, (title, tags, body) in zip(AGES, NOTES, strict=True):
            note = create(NoteForm(title, unwrap(body), tags.split(", ")))
            note.created_at = note.updated_at = now() - age
            note.save()


def unwrap(text: str) -> str:
    """Paragraphs as people type them, on one line; what begins with a dash or a number keeps its own."""
    return re.sub(r"(?<!\n)\n(?!\n|- |\d\. )", " ", text.strip())


AGES = [timedelta(hours=hours) for hours in (640, 431, 310, 266, 190, 143, 97, 71, 49, 26, 5, 1)]

NOTES = [
    (
        "Welcome",
        "about",
        """
This is a small notebook on a real database. Write, tag, search and export.

Try a search for "exact phrase", for several words at once, or leave some out with -word.
The page works without JavaScript, and every note is at /api/notes as JSON too.
""",
    ),
    (
        "Sourdough, second attempt",
        "kitchen",
        """
450 g strong flour, 50 g rye, 360 g water, 100 g starter, 10 g salt.

Bulk rise at 24 °C took five and a half hours, not four. Fold every thirty minutes for the first two.
Bake covered at 250 °C for 20 minutes, then 25 uncovered. Crust far better than last week; crumb still a bit tight.
""",
    ),
    (
        "Why requests share a pool",
        "databases, python",
        """
Opening a PostgreSQL connection costs a process and a few round trips. Doing it for every request shows.

A pool keeps a few open and lends them out. Rules that matter: never lend one twice, never lend a dead one,
never hold one while waiting for something else, and always give it back - also when the handler raised.
""",
    ),
    (
        "Books to read next",
        "reading",
        """
- The Peregrine, J. A. Baker
- A Philosophy of Software Design, John Ousterhout
- The Left Hand of Darkness, Ursula K. Le Guin
- Designing Data-Intensive Applications (chapters 7 and 9 again)
""",
    ),
    (
        "Allotment: what went in",
        "garden",
        """
Broad beans in the long bed, two rows. Garlic looks happy after the frost. Moved the rhubarb to the corner
by the water butt.

Next: net the brassicas before the pigeons notice, and ask Margit for tomato seedlings.
""",
    ),
    (
        "Locks seen on Tuesday",
        "databases, work",
        """
The nightly report waited nine minutes behind a session that was "idle in transaction". Someone opened a transaction
in a shell and went for lunch.

Set idle_in_transaction_session_timeout to 60s for the app's role. Also: the report does not need a transaction at all.
""",
    ),
    (
        "Trip to Lisbon",
        "travel",
        """
Train from Porto, three hours, sit on the right for the sea. Flat is in Graça, the key is with the bakery next door.

Must see: Museu do Azulejo, the ferry to Cacilhas at sunset, Livraria Ler Devagar.
Bring shoes with grip. The pavements are polished stone and it will rain.
""",
    ),
    (
        "Questions for the review",
        "work",
        """
1. What happens to a half-written export when the client hangs up?
2. Which of these endpoints must work while the database is down? (health check: yes)
3. Who gets told when a connection has been held for more than a minute?
""",
    ),
    (
        "Lentil soup",
        "kitchen",
        """
Red lentils, two onions, cumin, a little chilli, one lemon. Fry the spices in the oil first, always.

Enough for four, or for two who are working late. Freezes well.
""",
    ),
    (
        "Full-text search in three databases",
        "databases, search",
        """
- SQLite: FTS5 with the porter stemmer, external content, three triggers.
- PostgreSQL: a generated tsvector column with a GIN index; websearch_to_tsquery takes whatever people type.
- MariaDB: a FULLTEXT index and MATCH … AGAINST in boolean mode. Words under three letters are not indexed.

All three rank; none of them should ever see raw user input as syntax.
""",
    ),
    (
        "Heard this morning",
        "birds, garden",
        """
An eastern wood pewee would say its own name, but here it was a chiffchaff, doing the same: first of the year, in the
hedge behind the shed. Two blackcaps as well, and the usual argument of sparrows.
""",
    ),
    (
        "Release checklist",
        "python, work",
        """
- changelog has a date
- tests green on the oldest and the newest Python
- the wheel installs into an empty environment
- tag, build, upload, announce
- then have lunch, not before
""",
    ),
]

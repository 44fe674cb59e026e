"""The shared core: scopes, adopted databases, response bodies. It knows Peewee and no web framework."""

"""The same small product, a notebook, built five times: once per framework, on one set of Peewee models."""

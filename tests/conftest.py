"""What every test has: the private database servers."""

pytest_plugins = ["tests.servers.fixtures"]

"""What every test has: the private database servers."""

from pathlib import Path

pytest_plugins = ["tests.servers.fixtures"] if Path(__file__).with_name("servers").joinpath("fixtures.py").exists() else []

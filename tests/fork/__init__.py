"""What the tests of forking servers serve."""

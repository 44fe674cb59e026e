"""Private database servers, and a proxy that can misbehave, for tests that need real faults."""

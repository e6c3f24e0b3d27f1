"""BraidLM: declare, cost, train, test and compare hybrid state-space/attention models."""

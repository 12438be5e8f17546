"""The demo: the real product on a scripted input, with scripted faults."""

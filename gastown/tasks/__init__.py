"""The hands: Celery tasks with their side effects, one at a time, each safe to repeat."""

"""The merge queue's work on repositories. Knows git and runtimes, nothing of the database; `merging` is the way in."""

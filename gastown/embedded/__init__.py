"""The embedded stack: Postgres and Redis from wheels, the processes around them, and the one that supervises all.

`control` starts, stops and describes a stack; `supervisor` is the process that holds it; the others are its parts.
"""

"""The whole product in one thread of control, on a real Postgres, with everything outside of it chosen by a seed.

`run_seed` draws a history; what holds after each step is in `oracles`, what must hold at the end in `runs.settle`.
"""

"""Many trainings to find good settings: a space, trials by optuna, a table and plots.

::

    sweep.yaml ─► Sweep ─► study.journal ─┬─ trial in this process, or on a worker of a Dask client ─┐
                               ▲          └─ reports each check; hopeless ones are pruned            │
                               └──────────────────────────── value ◄────────────────────────────────┘
"""

"""The bench: pystn timed beside its peers, case by case, in one process.

``python -m bench`` from the root of the repository; ``--help`` says the rest.
"""

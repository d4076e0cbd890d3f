"""Cohorts: the visits table, what is derived from it, and importers that write one.

| module | what it holds |
|---|---|
| `visits` | the table itself: reading, checking, writing |
| `outcomes` | grade series of a knee, and "progressed by T" from them |
| `splits` | subject-level splits and folds |
| `importers` | other people's files -> visits table |
| `dataset` | visits table -> model images in memory |
| `phantom` | a simulated cohort with true follow-up images |
"""

"""Training and evaluation divided into jobs, for processes and machines.

``settings`` says what to do, ``jobs`` what one job is, ``merge`` how results become a record, and
``engines`` who does the work.
"""

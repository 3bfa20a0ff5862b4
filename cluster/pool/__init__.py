"""Evaluations on many hosts under deadlines.

=====================  ================================================================================
`pool`                 the driver's side: takes tasks, returns outcomes, replaces lost hosts
`outcome`              what a pool is given and returns: engines, tasks, outcomes, statistics
`schedule`             which task goes next, and to which host
`hosts`                the Ray actors, and the calls to them, direct or through relays
`host_worker`          what one host does, and its log
`scaling`              what is asked of a cluster that can grow
`child_processes`      the process that holds an engine, and the child forked for each evaluation
=====================  ================================================================================

Why it is built like this is in ``docs/decisions/pool.md``.
"""

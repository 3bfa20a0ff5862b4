"""Connections to Ray, and what goes over them besides the pool.

=====================  ================================================================================
`session`              `connect`: a Ray started for this process, or a running cluster
`admission`            whether a cluster lets this process in
`tokens`               Ray's token
`internals`            what is used of Ray's internals
`shards`               one function called with many payloads
`submission`           jobs on another cluster, over Ray's Jobs API
`checkup`              facts about the machines of a cluster
=====================  ================================================================================

Inside this package ``import ray`` is Ray itself. Never run a file of it by its path: its folder would come first on
the import path, and this package in Ray's place.
"""

"""The stored results of a run, and who else may read them.

=====================  ================================================================================
`run_store`            `RunStore`, the folder of one run
`folders`              folders on a file system or object store, in which a file is complete or absent
`schemas`              the tables of a run: columns, types, version
`generations`          the files of evaluations: one per generation, then one per stage
`parts`                what several drivers of one run have of their own
`lease`                one driver per run
`published_tables`     tables in Ray's object store, read by any job on the cluster
=====================  ================================================================================

Why it is built like this is in ``docs/decisions/store.md``.
"""

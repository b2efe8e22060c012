"""Scoring of whole archives: shards of a listing → Parquet parts, each film once, on processes or a Ray cluster.

`listing` turns sources into entries, `shards` cuts them, `worker` scores one shard, `parts` is the layout of the
results and `destination` where they go. `archive_scoring` drives workers: `processes` on this machine, `on_ray` on a
cluster. The process that does so is called the driver.
"""

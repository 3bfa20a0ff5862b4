"""Tables of a published run in the object store: by name, never another file, never stale."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neurofleet.cluster.cluster_errors import ClusterError
from neurofleet.cluster.store import published_tables
from tests.cluster.test_shared import end_holder

pytestmark = pytest.mark.usefixtures("ray_session")


def test_a_table_is_handed_out_as_it_is_stored(tmp_path):
    table = pa.table({"unit": ["a", "b"], "fusion_0": [0.5, 1.5]})
    pq.write_table(table, tmp_path / "embeddings.parquet")
    published_tables.publish("hippie-run", tmp_path)
    try:
        assert published_tables.published_table("hippie-run", "embeddings.parquet").equals(table)
        newer = pa.table({"unit": ["c"], "fusion_0": [2.5]})
        pq.write_table(newer, tmp_path / "embeddings.parquet")
        assert published_tables.published_table("hippie-run", "embeddings.parquet").equals(newer)
        with pytest.raises(ClusterError, match="there is no other.parquet in"):
            published_tables.published_table("hippie-run", "other.parquet")
        for name in ("../run/embeddings.parquet", "/etc/passwd.parquet", "job.yaml"):
            with pytest.raises(ClusterError, match="should be a Parquet file in the run's folder"):
                published_tables.published_table("hippie-run", name)
    finally:
        end_holder("hippie-run")

"""Archives of pictures and videos: a plan in shards, Ray actors that recognise them, one Parquet file per shard."""

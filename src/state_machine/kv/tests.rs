//! Tests of kv.

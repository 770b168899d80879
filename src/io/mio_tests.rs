//! Tests of `MioIO`.

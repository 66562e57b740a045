//! What the mesh promises, each promise as a test that reads like its sentence. Everything is real and in one
//! process: control plane, sidecars, applications (`meshwork_testkit`).

mod moves;

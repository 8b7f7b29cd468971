//! Against a real API server: ours, in this process.

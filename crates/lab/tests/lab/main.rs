//! Whole labs, with the real program: they come up, behave, break as asked, and leave nothing.

mod dual_stack;
mod faults;
mod helm;
mod kubernetes;
mod lifecycle;
mod setup;
mod traces;
mod walk_through;

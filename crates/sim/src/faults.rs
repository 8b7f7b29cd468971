//! What goes wrong, how often, and how often it did.

use std::collections::BTreeMap;
use std::fmt;

use crate::random::Random;

macro_rules! faults {
    ($($(#[doc = $doc:literal])* $fault:ident = $chance:literal),* $(,)?) => {
        /// A fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault { $($(#[doc = $doc])* $fault),* }

        impl Fault {
            /// All faults.
            pub const ALL: &[Self] = &[$(Self::$fault),*];

            /// How often it happens where it can, in a thousand.
            fn chance(self) -> u64 {
                match self { $(Self::$fault => $chance),* }
            }
        }
    };
}

faults! {
    /// A watch tells nothing for a while
    LateEvents = 350,
    /// A watch has lost its place, and what happened in between is only seen in the list
    LostWatch = 10,
    /// A watch tells once more what it has told
    RepeatedEvents = 15,
    /// The server refuses a write that would have been fine: somebody else was faster
    Conflict = 15,
    /// A write does not arrive
    LostWrite = 15,
    /// A write is done, and its answer does not arrive
    LostAnswer = 15,
    /// A write is done long after its writer has given up waiting
    LateWrite = 20,
    /// A controller stops while its writes are under way: they arrive when another one leads, and its own process lives on, or
    /// does not
    StuckWrites = 20,
    /// A list of who holds what fails, or the question whether a term has ended
    FailedList = 100,
    /// A controller dies between two writes
    Crash = 15,
    /// A controller dies while nothing is under way, or is restarted
    Restart = 2,
    /// A controller stops in order, and gives its lease back
    HandOver = 2,
    /// A controller stands still, and does not notice that another one leads
    Freeze = 3,
    /// A controller does not reach the API server
    Cut = 3,
    /// The API server is away for everybody
    Outage = 2,
    /// The wall clock of a controller is wrong by hours
    ClockJump = 5,
    /// The agent of a node is restarted
    AgentRestart = 3,
    /// An agent does not reach the API server
    AgentCut = 4,
    /// Nodes don't reach each other
    PeersCut = 3,
    /// A probe, its answer or a notice gets lost
    LostDatagram = 20,
    /// A node dies, and comes back some time later
    NodeDeath = 2,
    /// Somebody flushes a node's nf_tables
    ForeignFlush = 2,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// The faults of a run.
#[derive(Clone, Debug)]
pub struct Faults {
    random: Random,
    /// In peace nothing goes wrong
    pub at_peace: bool,
    /// How often each one happened
    pub counts: BTreeMap<Fault, u64>,
}

impl Faults {
    /// Faults from a seed.
    #[must_use]
    pub fn new(random: Random) -> Self {
        Self { random, at_peace: false, counts: BTreeMap::new() }
    }

    /// Whether it happens now.
    pub fn strikes(&mut self, fault: Fault) -> bool {
        let strikes = !self.at_peace && self.random.permille(fault.chance());
        if strikes {
            *self.counts.entry(fault).or_default() += 1;
        }
        strikes
    }

    /// How much of something.
    pub fn amount(&mut self, first: u64, last: u64) -> u64 {
        self.random.between(first, last)
    }
}

//! A watch of one kind, as a program sees it: first all objects, then what happened, some time later.

use std::sync::Arc;

use runtime::watch::Change;

use crate::faults::{Fault, Faults};
use crate::objects::{Kind, Object};
use crate::random::Random;
use crate::server::Server;

/// Where a program's watch of a kind stands.
#[derive(Clone, Debug)]
pub struct Feed {
    /// What is watched
    pub kind: Kind,
    /// The next entry of the server's log; `None`: everything must be listed
    next: Option<usize>,
    /// Only objects of this node
    node: Option<String>,
}

impl Feed {
    /// A watch that begins.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self { kind, next: None, node: None }
    }

    /// A watch of the pods of a node.
    #[must_use]
    pub fn of_node(kind: Kind, node: &str) -> Self {
        Self { node: Some(node.to_owned()).filter(|_| kind == Kind::Pod), ..Self::new(kind) }
    }

    /// It has lost its place, and lists everything anew.
    pub fn lose(&mut self) {
        self.next = None;
    }

    /// It goes back: what it has told it tells once more.
    pub fn repeat(&mut self, entries: usize) -> bool {
        let before = self.next;
        self.next = self.next.map(|next| next.saturating_sub(entries));
        self.next != before
    }

    /// How much it has not told yet.
    #[must_use]
    pub fn behind(&self, server: &Server) -> usize {
        self.next.map_or(1, |next| server.log(self.kind).len().saturating_sub(next))
    }

    /// The next that it tells.
    pub fn next(&mut self, server: &Server) -> Option<Change<Arc<Object>>> {
        let log = server.log(self.kind);
        let Some(next) = self.next else {
            self.next = Some(log.len());
            let objects = server.all(self.kind).values();
            return Some(Change::Replaced(objects.filter(|object| self.is_meant(object)).cloned().collect()));
        };
        let entry = log.get(next)?;
        self.next = Some(next + 1);
        // What leaves the selection is told as gone.
        let is_gone = entry.is_gone || !self.is_meant(&entry.object);
        let object = Arc::clone(&entry.object);
        Some(if is_gone { Change::Deleted(object) } else { Change::Applied(object) })
    }

    /// What it tells now: nothing where it is late, in peace all that there is, else some of it.
    pub fn told(
        &mut self,
        server: &Server,
        faults: &mut Faults,
        random: &mut Random,
        most: usize,
    ) -> Vec<Change<Arc<Object>>> {
        if faults.strikes(Fault::LateEvents) {
            return Vec::new();
        }
        let limit = if faults.at_peace { usize::MAX } else { 1 + random.below(most) };
        std::iter::from_fn(|| self.next(server)).take(limit).collect()
    }

    fn is_meant(&self, object: &Object) -> bool {
        match (&self.node, object) {
            (Some(node), Object::Pod(pod)) => pod.spec.node_name == *node,
            _ => true,
        }
    }
}

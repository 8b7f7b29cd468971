//! Admission: what configured policies and webhooks say about a write before it is stored.
//!
//! ```text
//!   store: decode -> [mutating webhooks] -> validate -> policies -> [validating webhooks] -> commit
//! ```
//!
//! Policies are judged on the spot. Webhooks are slow and somewhere else, and the store waits for nobody: a write that
//! needs one ends early and leaves its question in its [`Requester`]; whoever serves the request asks the webhook and
//! writes again, with the answer. An answer counts for exactly the objects that it was given for.

pub mod call;
pub(crate) mod expression;
pub mod index;
pub(crate) mod matching;
pub(crate) mod policy;
pub(crate) mod review;
pub(crate) mod webhook;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::auth::User;
use crate::resource::{Gvk, ResourceInfo};
use crate::status_error::StatusError;

/// The group of configurations and policies, which are never subject to any.
pub(crate) const GROUP: &str = "admissionregistration.k8s.io";

/// What a write does, as configurations name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
}

impl Operation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

/// Everything that policies and webhooks may look at.
#[derive(Debug, Clone)]
pub(crate) struct Attributes {
    pub(crate) resource: Arc<ResourceInfo>,
    /// What the object is: the resource's kind, or that of its scale.
    pub(crate) kind: Gvk,
    pub(crate) subresource: &'static str,
    pub(crate) operation: Operation,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) object: Value,
    pub(crate) old: Value,
    /// The namespace's object, null if there is none.
    pub(crate) namespace_object: Value,
    pub(crate) user: Arc<User>,
    pub(crate) dry_run: bool,
    /// `CreateOptions` and the like.
    pub(crate) options: Value,
}

/// Which webhooks are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Mutating,
    Validating,
}

/// A question that only webhooks can answer.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    pub(crate) stage: Stage,
    pub(crate) attributes: Attributes,
    pub(crate) hooks: Vec<Arc<webhook::Webhook>>,
}

/// Who asks for a write, and what webhooks have said about it so far.
#[derive(Debug, Default)]
pub struct Requester {
    /// The user.
    pub user: Arc<User>,
    pub(crate) options: Value,
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    pending: Option<Pending>,
    answers: Vec<Answer>,
    warnings: Vec<String>,
}

/// What webhooks made of an object; validating ones leave it as it is.
#[derive(Debug)]
struct Answer {
    stage: Stage,
    asked: (Value, Value),
    object: Value,
}

impl Requester {
    /// Somebody, with the options of the request.
    pub fn new(user: Arc<User>, options: Value) -> Self {
        Self { user, options, progress: Mutex::default() }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What webhooks answered about exactly these objects.
    pub(crate) fn answered(&self, stage: Stage, attributes: &Attributes) -> Option<Value> {
        let progress = self.progress();
        let same = |answer: &&Answer| {
            answer.stage == stage && answer.asked.0 == attributes.object && answer.asked.1 == attributes.old
        };
        progress.answers.iter().find(same).map(|answer| answer.object.clone())
    }

    /// Leaves a question behind; the error ends the write and is never seen by a client that can wait.
    pub(crate) fn ask(&self, pending: Pending) -> StatusError {
        self.progress().pending = Some(pending);
        StatusError::new(500, "ServerTimeout", "admission webhooks have to be asked first, try again")
            .with_retry_after(1)
    }

    /// The question that ended the last write.
    pub(crate) fn take_pending(&self) -> Option<Pending> {
        self.progress().pending.take()
    }

    /// Takes an answer for the next write.
    pub(crate) fn record(&self, stage: Stage, attributes: &Attributes, object: Value) {
        let asked = (attributes.object.clone(), attributes.old.clone());
        self.progress().answers.push(Answer { stage, asked, object });
    }

    /// Adds a text for a `Warning` header, once.
    pub(crate) fn warn(&self, warning: String) {
        let mut progress = self.progress();
        if !progress.warnings.contains(&warning) {
            progress.warnings.push(warning);
        }
    }

    /// The warnings so far.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.progress().warnings.clone()
    }
}

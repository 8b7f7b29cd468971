//! EgressClusterInfos.

use model::Reason;

use super::{FieldError, Kind, Operation, Verdict};

/// The only one that is read.
const NAME: &str = "default";

/// What somebody wants to do to an EgressClusterInfo.
#[derive(Clone, Copy, Debug)]
pub struct ClusterInfoRequest<'a> {
    /// What is to be done.
    pub operation: Operation,
    /// Its name.
    pub name: &'a str,
    /// Whether its spec stays as it is stored.
    pub is_unchanged: bool,
    /// All that is wrong with it.
    pub problems: &'a [Reason],
}

/// Whether an EgressClusterInfo may be written or deleted. One of another name was never read and may go.
#[must_use]
pub fn judge_cluster_info(request: ClusterInfoRequest<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    let is_read = request.name == NAME;
    match request.operation {
        Operation::Delete if is_read => verdict.error(FieldError::of_value(
            "metadata.name",
            Kind::Forbidden,
            request.name,
            "may not be deleted: policies without destSubnet are for what it does not name; empty its spec instead",
        )),
        Operation::Delete => {}
        Operation::Update if request.is_unchanged => {}
        Operation::Create | Operation::Update => {
            if request.operation == Operation::Create && !is_read {
                let problem = format!("nobody reads it; name it `{NAME}`");
                verdict.error(FieldError::of_value("metadata.name", Kind::Invalid, request.name, problem));
            }
            request.problems.iter().for_each(|problem| verdict.refuse(problem));
        }
    }
    verdict
}

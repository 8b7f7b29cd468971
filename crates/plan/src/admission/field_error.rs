//! Errors in the style of Kubernetes' own: `spec.ippools.ipv4[1]: Invalid value: "10.6.1.300": is not an address`.

use std::fmt;

use model::Reason;

/// What kind of error it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing is there, and something has to be.
    Required,
    /// What is there can't be used.
    Invalid,
    /// Something of the same kind has it already.
    Duplicate,
    /// What is named does not exist.
    NotFound,
    /// It may not be there, or may not be done.
    Forbidden,
}

impl Kind {
    /// The reason of a cause in a Status.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::Duplicate => "FieldValueDuplicate",
            Self::NotFound => "FieldValueNotFound",
            Self::Forbidden => "FieldValueForbidden",
        }
    }
}

/// A field that can't be as somebody wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Path in the object.
    pub field: String,
    /// What kind of error it is.
    pub kind: Kind,
    /// What is there, where that says something.
    pub value: Option<String>,
    /// What is wrong with it and what helps.
    pub problem: String,
}

impl FieldError {
    /// An error about this value.
    #[must_use]
    pub fn of_value(field: &str, kind: Kind, value: impl fmt::Display, problem: impl Into<String>) -> Self {
        let value = Some(value.to_string());
        Self { field: field.to_owned(), kind, value, problem: problem.into() }
    }

    /// An error about a field, whatever its value.
    #[must_use]
    pub fn of_field(field: &str, kind: Kind, problem: impl Into<String>) -> Self {
        Self { field: field.to_owned(), kind, value: None, problem: problem.into() }
    }

    /// Everything but the field.
    #[must_use]
    pub fn detail(&self) -> String {
        let kind = match self.kind {
            Kind::Required => "Required value",
            Kind::Invalid => "Invalid value",
            Kind::Duplicate => "Duplicate value",
            Kind::NotFound => "Not found",
            Kind::Forbidden => "Forbidden",
        };
        match &self.value {
            Some(value) => format!("{kind}: {value:?}: {}", self.problem),
            None => format!("{kind}: {}", self.problem),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.detail())
    }
}

impl From<&Reason> for FieldError {
    fn from(reason: &Reason) -> Self {
        let kind = match reason {
            Reason::NoDefaultGateway | Reason::SelectsNothing => Kind::Required,
            Reason::PoolsOverlap { .. } => Kind::Duplicate,
            Reason::UnknownGateway { .. } => Kind::NotFound,
            Reason::SelectorAndSubnet | Reason::AnotherDefault { .. } => Kind::Forbidden,
            _ => Kind::Invalid,
        };
        let value = match reason {
            Reason::InvalidField { value, .. } => value.clone(),
            Reason::PoolsOverlap { address, .. } | Reason::OutsidePool { address, .. } => {
                Some(address.to_string())
            }
            Reason::PairedElsewhere { wanted, .. } => Some(wanted.to_string()),
            Reason::UnknownGateway { gateway } | Reason::PoolEmpty { gateway } => Some(gateway.clone()),
            _ => None,
        };
        let field = reason.field().unwrap_or("spec.egressGatewayName").to_owned();
        let problem = match reason {
            Reason::InvalidField { problem, .. } => problem.clone(),
            other => other.problem(),
        };
        Self { field, kind, value, problem }
    }
}

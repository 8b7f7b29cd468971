//! Patching: a read, a pure transformation and a replace under one lock, so that it never conflicts.

use std::sync::Arc;

use serde_json::Value;

use crate::patch;
use crate::status_error::{FieldError, StatusError};
use crate::store::applying::Owners;
use crate::store::create::{Decoded, decode, settle_namespace};
use crate::store::objects::Store;
use crate::store::update::check_name;
use crate::store::{Body, Context, FieldValidation, PatchType, Subresource, Target, WriteOptions, Written};

impl Store {
    /// Applies a patch to an object, its status or its scale.
    pub fn patch(
        &mut self,
        ctx: &mut Context<'_>,
        target: &Target,
        subresource: Subresource,
        patch_type: PatchType,
        body: impl Into<Body>,
        options: &WriteOptions,
    ) -> Result<Written, StatusError> {
        let info = &target.resource;
        let Body { value: patch, duplicates } = body.into();
        let accepted: &[&str] = if info.builtin {
            &[
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/strategic-merge-patch+json",
                "application/apply-patch+yaml",
            ]
        } else {
            &["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"]
        };
        if patch_type == PatchType::Strategic && !info.builtin {
            return Err(StatusError::unsupported_media_type(accepted));
        }
        if patch_type == PatchType::Apply {
            return self.apply(ctx, target, subresource, Body { value: patch, duplicates }, options);
        }
        if options.force {
            let error = FieldError::forbidden("force", "may not be specified for non-apply patch");
            return Err(StatusError::invalid_kind("meta.k8s.io", "PatchOptions", "", &[error]));
        }
        let entry = self.find(target)?;
        let old = Self::present(info, entry);
        let base = if subresource == Subresource::Scale {
            Arc::new(self.scale_of(target, &old)?)
        } else {
            Arc::clone(&old)
        };
        let patched = match patch_type {
            PatchType::Json => patch::apply_json(&base, &patch, &self.limits)?,
            PatchType::Merge => patch::apply_merge(&base, &patch)?,
            PatchType::Strategic | PatchType::Apply => patch::apply_strategic(info, &base, &patch)?,
        };
        if subresource == Subresource::Scale {
            return self.update_scale(ctx, target, &patched, options);
        }
        let decoded = decode(info, Body { value: patched, duplicates }, options.field_validation);
        let Decoded { mut value, warnings } =
            decoded.map_err(|error| strict_error_of_patch(options.field_validation, &patch, error))?;
        check_name(target, &mut value)?;
        settle_namespace(info, target.namespace.as_deref(), &mut value)?;
        let object = self.replace(ctx, target, subresource, &old, value, Owners::Changed, options)?;
        Ok(Written { object, warnings, created: false })
    }
}

/// Unknown fields in a patch are reported about the patch and not about the object.
fn strict_error_of_patch(validation: FieldValidation, patch: &Value, error: StatusError) -> StatusError {
    const MARK: &str = "strict decoding error: ";
    match error.message.find(MARK).and_then(|at| error.message.get(at..)) {
        Some(detail) if validation == FieldValidation::Strict => {
            let problem =
                FieldError::invalid("patch", &Value::Null, detail).with_value(format!("\"{patch}\""));
            StatusError::invalid_kind("", "", "", &[problem])
        }
        _ => error,
    }
}

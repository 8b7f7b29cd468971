//! What webhooks are asked.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Review {
    webhook: &'static str,
    result: &'static str,
}

/// Counts questions and the time to answer them.
#[derive(Clone, Debug)]
pub(crate) struct AdmissionMetrics {
    reviews: Family<Review, Counter>,
    seconds: Histogram,
}

impl Default for AdmissionMetrics {
    fn default() -> Self {
        // From 0.1 ms to 6.5 s.
        Self { reviews: Family::default(), seconds: Histogram::new(exponential_buckets(0.0001, 4.0, 9)) }
    }
}

impl AdmissionMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let text = "Questions to the webhooks by what came of them";
        registry.register("admission_reviews", text, self.reviews.clone());
        registry.register("admission_seconds", "Time to answer a webhook's question", self.seconds.clone());
    }

    /// A webhook has answered: `allowed`, `denied`, or with an `error`.
    pub(crate) fn answered(&self, webhook: &'static str, result: &'static str, took: Duration) {
        self.reviews.get_or_create(&Review { webhook, result }).inc();
        self.seconds.observe(took.as_secs_f64());
    }
}
